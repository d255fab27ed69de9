"""How a job's end is written into RQ's records."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis
from rq.executions import Execution
from rq.job import JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from shared import keys
from shared.errors import GatewayError, RequestCancelledError
from shared.healing import heal, is_wrong_type
from worker.rq.claims import Claimed, Held
from worker.rq.safe_job import SafeJob, SafeQueue, read_job
from worker.serving.reports import Ended
from worker.serving.ticket import Ticket

log = logging.getLogger(__name__)

_TRIES = 10


@dataclass(slots=True)
class Slot:
    """One job in flight since `started_at`. `is_stopped`: by an operator's stop-job. `is_in_engine` once the engine
    has its prompt.

    RQ's objects for it are made when something is to be written: that takes longer than the way to the engine.
    """

    claimed: Claimed
    queue: SafeQueue
    ticket: Ticket
    started_at: datetime
    execution_id: str
    is_stopped: bool = False
    is_in_engine: bool = False
    _job: SafeJob | None = None

    @property
    def job_id(self) -> str:
        return self.claimed.job_id

    @property
    def held(self) -> Held:
        return Held(self.queue.name, self.job_id, self.execution_id)

    def job(self, worker: BaseWorker) -> SafeJob:
        """RQ's job, up to date with what the claim wrote. Both TTLs are always set: without them RQ would keep failed
        jobs for a year and their results for ever."""
        if self._job is None:
            job = read_job(worker.connection, self.job_id, self.claimed.fields)
            job.worker_name, job.started_at, job._status = worker.name, self.started_at, JobStatus.STARTED
            job.origin = self.queue.name
            job.result_ttl = keys.RESULT_TTL_S if job.result_ttl is None else job.result_ttl
            job.failure_ttl = keys.FAILURE_TTL_S if job.failure_ttl is None else job.failure_ttl
            self._job = job
        return self._job

    def execution(self, worker: BaseWorker) -> Execution:
        execution = Execution(self.execution_id, self.job_id, worker.connection, worker.name)
        execution.created_at = self.started_at
        return execution


def end(
    worker: BaseWorker, slot: Slot, ended: Ended, *, busy_with: str | None, resting: WorkerStatus = WorkerStatus.IDLE
) -> None:
    """Write the outcome, unless somebody else ended the job first (`job.cancel()`, a reaper), and let go of it.
    `busy_with` is another job in flight; without one the worker's state becomes `resting`. Raises
    `redis.RedisError`."""
    job = slot.job(worker)
    for _ in range(_TRIES):
        with worker.connection.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(job.key)
                status = pipe.hget(job.key, "status")
                pipe.multi()
                if status == JobStatus.STARTED.encode():
                    _write_outcome(worker, slot, ended, pipe)
                elif status is not None:
                    pipe.expire(job.key, keys.FAILURE_TTL_S)  # the claim took its TTL away
                slot.execution(worker).delete(job=job, pipeline=pipe)
                pipe.unlink(worker.body_of(job.id))  # taken already, unless Redis or the worker was away
                worker.set_current_job_id(busy_with, pipeline=pipe)
                if busy_with is None:
                    worker.set_state(resting, pipeline=pipe)
                pipe.execute()
                return
            except redis.WatchError:
                continue
            except redis.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                heal(worker.connection, {worker.key: "hash", **kinds_of(slot.queue.name, job.id, slot.execution_id)})
    log.error("the end of job %s cannot be written: it changes too fast", job.id)


def kinds_of(queue: str, job_id: str, execution_id: str) -> dict[str, str]:
    """RQ's keys that the end of a job is written to, with the type that each has."""
    return {
        SafeJob.key_for(job_id): "hash",
        f"rq:execution:{job_id}:{execution_id}": "hash",
        f"rq:executions:{job_id}": "zset",
        f"rq:results:{job_id}": "stream",
        **registries_of(queue),
    }


def registries_of(queue: str) -> dict[str, str]:
    """A queue's registries of jobs, with the type that each has."""
    kinds = (StartedJobRegistry, FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry)
    return {kind.key_template.format(queue): "zset" for kind in kinds}


def _write_outcome(worker: BaseWorker, slot: Slot, ended: Ended, pipe: Any) -> None:
    job, error = slot.job(worker), ended.error
    job.ended_at = now()
    worker.increment_total_working_time(job.ended_at - job.started_at, pipe)
    execution: dict[str, Any] = {
        "worker_name": worker.name,
        "execution_id": slot.execution_id,
        "execution_started_at": slot.started_at,
        "execution_ended_at": job.ended_at,
    }
    if error is None:
        worker.increment_successful_job_count(pipe)
        job._result = {"input_tokens": ended.usage.input_tokens, "output_tokens": ended.usage.output_tokens}
        job._handle_success(job.result_ttl, pipeline=pipe, **execution)
        job.cleanup(job.result_ttl, pipeline=pipe, remove_from_queue=False)
        return
    if not ended.is_returned:
        worker.increment_failed_job_count(pipe)
    if (ended.is_returned or isinstance(error, RequestCancelledError)) and not slot.is_stopped:
        job.set_status(JobStatus.CANCELED, pipeline=pipe)
        CanceledJobRegistry(slot.queue.name, connection=worker.connection, job_class=SafeJob).add(job, pipeline=pipe)
        pipe.expire(job.key, keys.ENDED_TTL_S)
        return
    job.set_status(JobStatus.STOPPED if slot.is_stopped else JobStatus.FAILED, pipeline=pipe)
    job._handle_failure(_reason(error), pipe, **execution)


def _reason(error: GatewayError) -> str:
    """RQ keeps this where it would keep a traceback; never a prompt."""
    return f"{error.code}: {error.message}"
