"""A worker as RQ's records and RQ's commands know it.

RQ's stock workers run one job at a time, in a fork or in the foreground, and beat only around jobs. This one never
forks (Metal does not survive it) and runs no job itself: the control loop (`worker.rq.control`) does, many at a time.

`RQ_INTERNALS` lists what is relied on beyond RQ's documented interface; a test pins it to the version.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from rq.executions import Execution
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from shared.healing import heal
from shared.keys import Names, host_of
from shared.wire import JobSerializer
from shared.work import LANES
from worker.rq.records import Slot
from worker.rq.safe_job import SafeJob, SafeQueue
from worker.status import EXIT_STOPPED

log = logging.getLogger(__name__)

RQ_VERSION = "2.12"
RQ_INTERNALS = (
    "BaseWorker: __init__ arguments, register_birth, register_death, set_state, set_current_job_id, key, worker_ttl",
    "BaseWorker.connection_timeout is raised to the pool's socket_timeout in __init__",
    "BaseWorker.increment_{successful,failed}_job_count and increment_total_working_time take a pipeline",
    "Job.restore(hash), Job._status, Job._result, Job._dependency_ids",
    "Job._handle_success, Job._handle_failure, Job.cleanup",
    "JOB_ID_PATTERN, which worker/rq/claims.py repeats",
    "Execution(id, job id, connection, worker name), Execution.create, Execution.delete",
    "a job's hash: `data` is zlib's JSON of [function, instance, arguments, named arguments]; names of callbacks",
    "registries: key templates and cleanup() of finished and failed jobs, CanceledJobRegistry.add scores by time",
    "commands: JSON with `command` and `job_id` on BaseWorker.pubsub_channel_name",
    "keys and fields written by the scripts of worker/rq/claims.py",
)

WORKER_TTL_S = 15


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain, or with `now` end at once. `is_patient`: whatever runs is brought to its end, however long that takes."""

    now: bool = False
    status: int = EXIT_STOPPED
    is_patient: bool = False


@dataclass(frozen=True, slots=True)
class StopJob:
    """An operator's stop-job command."""

    job_id: str


class EngineWorker(BaseWorker):  # type: ignore[misc]
    """RQ's side of a worker. `post` takes RQ's commands to the control loop, from any thread. `own_queues` are what it
    takes jobs from, by lane; `shared_queues` are the model's, where all registries are."""

    job_class = SafeJob
    queue_class = SafeQueue

    def __init__(
        self, client: redis.Redis, names: Names, *, name: str, model: str, post: Callable[[Stop | StopJob], None]
    ) -> None:
        own = [names.worker_queue(model, name, lane) for lane in LANES]
        shared = [names.queue(model, lane) for lane in LANES]
        super().__init__(
            [*own, *shared], name=name, connection=client, serializer=JobSerializer, worker_ttl=WORKER_TTL_S
        )
        self._post = post
        self._names = names
        self.own_queues, self.shared_queues = self.queues[: len(own)], self.queues[len(own) :]

    @property
    def connection_timeout(self) -> float:
        """Keep the client's own time-outs: stock RQ raises them to minutes, for every command."""
        return 0.0

    def body_of(self, job: str) -> str:
        """The key under which the body of a job lies for this worker."""
        return self._names.body_of(host_of(self.name), job)

    def work(self, *_args: Any, **_kwargs: Any) -> bool:
        raise NotImplementedError("jobs run in the engine's batch")

    def execute_job(self, job: SafeJob, queue: SafeQueue) -> None:
        raise NotImplementedError("jobs run in the engine's batch")

    def handle_payload(self, message: bytes) -> None:
        """A command of RQ's (on the listener's thread)."""
        try:
            payload = json.loads(message)
            command, job_id = payload.get("command"), payload.get("job_id")
        except (ValueError, AttributeError) as error:
            log.warning("a command that cannot be read: %s", error)
            return
        if command == "stop-job" and isinstance(job_id, str):
            self._post(StopJob(job_id))
        elif command == "shutdown":
            self._post(Stop())
        else:
            log.info("command %r is not for this kind of worker", command)

    def begin(self) -> None:
        """Register. Raises `redis.RedisError`."""
        self._heal_registries()
        self.register_birth()
        self.set_state(WorkerStatus.STARTED)

    def _heal_registries(self) -> None:
        """What registering writes to: no worker could begin while one of them holds something else."""
        by_queue = [WORKERS_BY_QUEUE_KEY % name for name in self.queue_names()]
        heal(self.connection, {**dict.fromkeys((self.redis_workers_keys, *by_queue), "set"), self.key: "hash"})

    def register_again(self, slots: Sequence[Slot], execution_ttl_s: float, *, resting: WorkerStatus) -> None:
        """After Redis came back empty: the worker, and each job in `slots` (oldest first) as it runs here, except those
        that somebody else has ended. Raises `redis.RedisError`."""
        self.connection.delete(self.key)
        self._heal_registries()
        self.register_birth()
        for slot in slots:
            job = slot.job(self)
            if self.connection.hget(job.key, "status") not in (None, b"started"):
                continue  # ended by somebody else: the next beat sees it
            with self.connection.pipeline(transaction=True) as pipe:
                pipe.sadd(SafeQueue.redis_queues_keys, slot.queue.key)
                job.save(pipeline=pipe)
                before = f"{slot.job_id}:{slot.execution_id}"  # there still, where only the clock was set
                pipe.zrem(slot.queue.started_job_registry.key, before)
                pipe.delete(f"rq:execution:{before}")
                pipe.zrem(f"rq:executions:{slot.job_id}", slot.execution_id)
                slot.execution_id = Execution.create(job, round(execution_ttl_s), pipe, self.name).id
                pipe.execute()
        self.set_state(WorkerStatus.BUSY if slots else resting)
        self.set_current_job_id(slots[0].job_id if slots else None)
