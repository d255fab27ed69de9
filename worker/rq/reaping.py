"""Ends what a dead worker held, exactly once however many do it at the same time.

RQ's own clean-up handles a job twice when two processes run it at once, and only when the entry expires. Here one
transaction per job takes the entry out and fails the job, watched so that the first one wins.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError
from rq.job import Job, JobStatus
from rq.utils import now
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from shared import keys
from shared.healing import heal, is_wrong_type
from shared.keys import Names, host_of
from shared.wire import JobSerializer
from worker.rq.claims import list_key, move_jobs
from worker.rq.records import kinds_of
from worker.rq.safe_job import SafeJob, SafeQueue, is_job_id, read_job

log = logging.getLogger(__name__)

_TRIES = 10
_NO_DEATH: Mapping[Any, Any] = {}


def reap(client: redis.Redis, names: Names, dead_worker: str, *, is_member: bool = False) -> int:
    """Free everything a worker that is known to be dead held: its running jobs fail, its lists are moved to the
    model's, its lease and RQ's record of it go. Safe to repeat. How many jobs failed. `is_member` as in
    `release_lists`. Raises `redis.RedisError`."""
    queues = _queue_names(client, dead_worker)
    failed = 0
    entries = {
        queue: cast(list[bytes], client.zrange(queue.started_job_registry.key, 0, -1))
        for queue in _queues(client, queues)
    }
    death = _death(client, dead_worker, [entry for each in entries.values() for entry in each])
    for queue, each in entries.items():
        failed += sum(_fail(client, names, queue, entry, dead_worker=dead_worker, death=death) for entry in each)
    release_lists(client, names, dead_worker, queues, is_member=is_member)
    with client.pipeline(transaction=True) as pipe:
        pipe.delete(f"rq:worker:{dead_worker}", names.lease(dead_worker))
        pipe.srem(names.workers, dead_worker)
        pipe.srem(REDIS_WORKER_KEYS, f"rq:worker:{dead_worker}")
        for name in queues:
            pipe.srem(WORKERS_BY_QUEUE_KEY % name, f"rq:worker:{dead_worker}")
        pipe.execute()
    if failed:
        log.warning("worker %s died while it ran %d jobs", dead_worker, failed)
    return failed


def reap_expired(client: redis.Redis, names: Names, queues: Iterable[SafeQueue]) -> int:
    """Fail the jobs whose worker has not beaten for its execution TTL; how many."""
    queues = list(queues)
    if not client.exists(*(queue.started_job_registry.key for queue in queues)):
        return 0  # nothing runs anywhere
    failed = 0
    now_s = client.time()[0]  # the clock by which workers are alive
    for queue in queues:
        entries = cast(list[bytes], client.zrangebyscore(queue.started_job_registry.key, 0, now_s))
        failed += sum(_fail(client, names, queue, entry, expired_s=now_s) for entry in entries)
    return failed


def release_lists(
    client: redis.Redis, names: Names, worker: str, queues: Iterable[str], *, is_member: bool = False
) -> int:
    """Give what waits on the worker's own lists, which are among these queues, to the model's, class by class; how
    many. Its bell and its counter go. A host that joined (`is_member`) may write to no lists but its own: there the
    gateways that own the jobs move them, once the lease is gone."""
    moved = 0
    for queue in () if is_member else queues:
        shared = queue.replace(f"@{worker}!", "!")
        if shared != queue:
            moved += move_jobs(client, list_key(queue), list_key(shared), shared)
    client.delete(names.bell(worker), names.placed(worker))
    return moved


def _queues(client: redis.Redis, names: Iterable[str]) -> list[SafeQueue]:
    return [SafeQueue(name, connection=client, serializer=JobSerializer) for name in names]


def _queue_names(client: redis.Redis, worker: str) -> set[str]:
    """From RQ's record of the worker while that lives, else from all queues: its own name says its model."""
    recorded = cast(bytes | None, client.hget(f"rq:worker:{worker}", "queues"))
    if recorded:
        return set(recorded.decode(errors="replace").split(","))
    prefix = SafeQueue.redis_queue_namespace_prefix
    known = {
        key.decode(errors="replace").removeprefix(prefix)
        for key in cast(set[bytes], client.smembers(SafeQueue.redis_queues_keys))
    }
    return known


def _death(client: redis.Redis, dead_worker: str, entries: Iterable[bytes]) -> Mapping[Any, Any]:
    """What the jobs of the dead worker are told: how many they were, and how many of them were suspects."""
    names = [entry.decode(errors="replace") for entry in entries]
    with client.pipeline(transaction=False) as pipe:
        for entry in names:
            pipe.hget(f"rq:execution:{entry}", "worker_name")
            pipe.hmget(SafeJob.key_for(entry.partition(":")[0]), "worker_name", keys.IS_SUSPECT)
        replies = pipe.execute(raise_on_error=False)
    rows = [
        (executor or row[0], row[1])
        for executor, row in zip(replies[::2], replies[1::2], strict=True)
        if isinstance(row, list) and not isinstance(executor, redis.RedisError)
    ]
    suspects = [suspect for holder, suspect in rows if holder == dead_worker.encode()]
    return {keys.DIED_WITH: len(suspects), keys.DIED_SUSPECTS: sum(suspect is not None for suspect in suspects)}


def _drop_body(client: redis.Redis, names: Names, job_id: str, holder: bytes | str | None) -> None:
    """The worker may have died before it did so. A host that joined may not touch another's bodies: there the gateway
    does it, when it hears of the end."""
    worker = holder.decode(errors="replace") if isinstance(holder, bytes) else holder or ""
    with contextlib.suppress(NoPermissionError):
        client.unlink(names.body_of(host_of(worker), job_id))


def _note_failure(pipe: Pipeline, job: Job, queue: SafeQueue, death: Mapping[Any, Any]) -> None:
    job.origin = queue.name
    job.failure_ttl = job.failure_ttl or keys.FAILURE_TTL_S
    job.ended_at = now()
    job.set_status(JobStatus.FAILED, pipeline=pipe)
    job._handle_failure("the worker died", pipe, worker_name=job.worker_name or "")
    if death:
        pipe.hset(job.key, mapping={**death})


def _fail(
    client: redis.Redis,
    names: Names,
    queue: SafeQueue,
    raw_entry: bytes,
    *,
    dead_worker: str = "",
    expired_s: float = 0,
    death: Mapping[Any, Any] = _NO_DEATH,
) -> bool:
    """Fail the job of one started-registry entry when it belongs to the dead worker, or was to end by `expired_s`."""
    entry = raw_entry.decode(errors="replace")
    job_id = entry.partition(":")[0]
    if not is_job_id(job_id):
        client.zrem(queue.started_job_registry.key, raw_entry)  # no entry of RQ's, whose own clean-up fails at it
        return False
    key = SafeJob.key_for(job_id)
    execution_key = f"rq:execution:{entry}"
    for _ in range(_TRIES):
        with client.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(key, execution_key)  # type: ignore[no-untyped-call]
                score = pipe.zscore(queue.started_job_registry.key, raw_entry)
                holder = pipe.hget(execution_key, "worker_name") or pipe.hget(key, "worker_name")
                is_dead = score is not None and (holder == dead_worker.encode() if dead_worker else score <= expired_s)
                if not is_dead:
                    return False
                is_started = pipe.hget(key, "status") == JobStatus.STARTED.encode()
                fields = cast(dict[bytes, bytes], pipe.hgetall(key)) if is_started else None
                job = None if fields is None else read_job(client, job_id, fields)
                pipe.multi()
                pipe.zrem(queue.started_job_registry.key, raw_entry)
                pipe.delete(execution_key, f"rq:executions:{job_id}")
                if job is not None:
                    _note_failure(pipe, job, queue, death)
                pipe.execute()
                _drop_body(client, names, job_id, holder)
                return job is not None
            except redis.WatchError:
                continue
            except redis.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                heal(client, kinds_of(queue.name, job_id, entry.partition(":")[2]))
    log.warning("job %s changes too fast to be reaped now", job_id)
    return False
