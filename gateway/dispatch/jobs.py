"""Work on its way to workers: the only module of the gateway that knows RQ.

RQ's own objects would take longer to make a job than Redis takes to hand it to a worker, so what RQ would write is
written here, field by field: body, job and its place in the queue, in one write and in this order. What that relies on
is listed in `RQ_INTERNALS` and pinned by tests, one of which has RQ write the same job.

The connections have no time-outs of their own (redis-py makes a task for each of its time-outs): every method here has
one for all that it does.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import redis.asyncio
from redis.exceptions import RedisError
from rq import Queue
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry

from gateway.dispatch.presence import away_error
from shared import keys, wire
from shared.errors import BrokerUnavailableError
from shared.keys import NO_HOST, Names, job_id
from shared.request import Envelope

logger = logging.getLogger(__name__)

RQ_VERSION = "2.12"
RQ_INTERNALS = (
    "RQ's keys: Job.key_for, Queue.redis_queue_namespace_prefix, Queue.redis_queues_keys, "
    "CanceledJobRegistry.key_template",
    "a job that waits is a hash of the fields that `job_fields` makes and a member of its queue's list, and the queue "
    "one of the set of queues",
)

_NO_TIMEOUT = -1  # how long an answer may take is the client's business; how long it waits, the deadline's
_PATIENCE_S = 5.0  # with Redis
_QUICKLY_SIGNED_BYTES = 1024 * 1024
_BROKER_ERRORS = (RedisError, OSError, TimeoutError)
_CANCEL_RETRY_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What RQ says about a job. `status` is empty when Redis does not know the job."""

    status: str
    worker: str


def queue_key(queue: str) -> str:
    """The Redis list behind an RQ queue."""
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


def job_fields(
    arguments: Sequence[str | int], *, queue: str, description: str, now: datetime
) -> dict[Any, str | int | bytes]:
    """The hash of a job that waits for the worker's one function to be called with `arguments`, as RQ writes it."""
    time_text = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "created_at": time_text,
        "data": zlib.compress(wire.JobSerializer.dumps((keys.JOB_FUNCTION, None, arguments, {}))),
        "success_callback_name": "",
        "failure_callback_name": "",
        "stopped_callback_name": "",
        "started_at": "",
        "ended_at": "",
        "last_heartbeat": "",
        "worker_name": "",
        "group_id": "",
        "origin": queue,
        "description": description,
        "enqueued_at": time_text,
        "timeout": _NO_TIMEOUT,
        "result_ttl": keys.RESULT_TTL_S,
        "failure_ttl": keys.FAILURE_TTL_S,
        "status": JobStatus.QUEUED.value,
    }


@asynccontextmanager
async def _asking_redis(purpose: str) -> AsyncIterator[None]:
    """Raises `BrokerUnavailableError` when the block does not get through to Redis, or not in time."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            yield
    except _BROKER_ERRORS as error:
        raise away_error(purpose, error) from error


async def drain(client: redis.asyncio.Redis, worker: str) -> bool:
    """RQ's shutdown command: the worker finishes what it holds and ends. False when no such worker listens.
    Raises `BrokerUnavailableError`."""
    async with _asking_redis("the worker could not be told"):
        return bool(await client.publish(PUBSUB_CHANNEL_TEMPLATE % worker, orjson.dumps({"command": "shutdown"})))


class JobQueue:
    """Submits, counts and cancels. Every method raises `BrokerUnavailableError` when Redis is away."""

    def __init__(self, client: redis.asyncio.Redis, names: Names, secret: bytes) -> None:
        self._redis = client
        self._names = names
        self._secret = secret
        self._cancelling: set[asyncio.Task[None]] = set()

    async def submit(self, envelope: Envelope, queue_name: str) -> None:
        """Store the body and enqueue the job on the named RQ queue, in one round trip. When this raises, the job may
        have arrived all the same: cancel it."""
        request = envelope.request
        body, signature = await self._sealed(envelope)
        job = job_id(request.id, envelope.attempt)
        fields = job_fields(
            [request.id, envelope.attempt, signature],
            queue=queue_name,
            description=f"generate {request.model}",
            now=datetime.now(UTC),
        )
        # RQ's own `ttl` would also expire two lists of dependencies that never exist.
        ttl_s = max(keys.BODY_TTL_S, math.ceil(envelope.deadline_s - time.time()))
        async with _asking_redis("the request could not be queued"):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(self._names.body(NO_HOST, request.id, envelope.attempt), body, ex=ttl_s)
                pipe.hset(Job.key_for(job), mapping=fields)
                pipe.expire(Job.key_for(job), ttl_s)
                pipe.sadd(Queue.redis_queues_keys, queue_key(queue_name))
                pipe.rpush(queue_key(queue_name), job)
                await pipe.execute()

    async def _sealed(self, envelope: Envelope) -> tuple[bytes, str]:
        """The envelope's bytes and their signature. (Hashing lets others run, unlike most of what threads could do.)"""
        body = wire.encode(envelope)
        signed = (self._secret, envelope.request.id, envelope.attempt, body)
        if len(body) < _QUICKLY_SIGNED_BYTES:
            return body, wire.sign(*signed)
        return body, await asyncio.to_thread(wire.sign, *signed)

    async def count(self, envelope: Envelope) -> None:
        """Ask any worker of the model to count the prompt's tokens; the answer is a frame."""
        request = envelope.request
        body, signature = await self._sealed(envelope)
        key = self._names.calls(request.model)
        async with _asking_redis("the request could not be queued"):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.rpush(key, wire.encode([signature, body]))
                pipe.expire(key, keys.CALL_TTL_S)
                await pipe.execute()

    async def cancel(self, request_id: str, attempt: int, queue_name: str, reason: str) -> bool:
        """Stop the request wherever it is: queued, claimed, prefilling or decoding.

        True when it was still queued: then the job ends as RQ's own `Job.cancel` would leave it. Otherwise its
        worker ends it.
        """
        job = job_id(request_id, attempt)
        async with _asking_redis("the request could not be cancelled"):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(self._names.ended(request_id), attempt, ex=keys.ENDED_TTL_S)
                pipe.lrem(queue_key(queue_name), 1, job)
                pipe.publish(self._names.cancels, wire.encode([request_id, attempt, reason]))
                _, removed, _ = await pipe.execute()
            if removed:
                await self._record_cancelled(request_id, attempt, queue_name)
        return bool(removed)

    async def _record_cancelled(self, request_id: str, attempt: int, queue_name: str) -> None:
        """RQ's record of a cancelled job. RQ never trims this registry, so that is done here."""
        job = job_id(request_id, attempt)
        now_s = int(time.time())
        registry = CanceledJobRegistry.key_template.format(queue_name)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(Job.key_for(job), "status", JobStatus.CANCELED)
            pipe.expire(Job.key_for(job), keys.ENDED_TTL_S)
            pipe.zadd(registry, {job: now_s})
            pipe.zremrangebyscore(registry, "-inf", now_s - keys.ENDED_TTL_S)
            pipe.delete(self._names.body(NO_HOST, request_id, attempt))
            await pipe.execute()

    def cancel_soon(self, request_id: str, attempt: int, queue_name: str, reason: str) -> None:
        """Cancel without making the caller wait, trying again for some seconds while Redis is away."""
        task = asyncio.get_running_loop().create_task(self._cancel_patiently(request_id, attempt, queue_name, reason))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel_patiently(self, request_id: str, attempt: int, queue_name: str, reason: str) -> None:
        for pause_s in _CANCEL_RETRY_S:
            try:
                await self.cancel(request_id, attempt, queue_name, reason)
                return
            except BrokerUnavailableError:
                await asyncio.sleep(pause_s)
        logger.warning("request %s could not be cancelled: Redis cannot be reached", request_id)

    async def states(self, jobs: Sequence[str]) -> list[JobState]:
        """What RQ says about each job, in one round trip."""
        async with _asking_redis("job states could not be read"):
            async with self._redis.pipeline(transaction=False) as pipe:
                for job in jobs:
                    pipe.hmget(Job.key_for(job), "status", "worker_name")
                rows = await pipe.execute()
        return [JobState(status=_text(status), worker=_text(worker)) for status, worker in rows]

    async def request_load(self, model: str) -> None:
        """Ask the hosts to load a model that no worker holds."""
        async with _asking_redis(f"no host could be asked to load {model}"):
            await self._redis.publish(self._names.loads, wire.encode([model]))

    async def settle(self, timeout_s: float) -> None:
        """Let the cancellations that are under way end."""
        if self._cancelling:
            await asyncio.wait(tuple(self._cancelling), timeout=timeout_s)


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
