"""RQ's side of a worker: jobs claimed, kept alive and recorded, many at a time, while one engine runs them all.

RQ's stock workers run one job at a time, in a fork or in the foreground, and beat only around jobs. This one keeps
RQ's records true for any number of jobs in flight and never forks (Metal does not survive it). Threads: the control
loop here, on the main thread, makes every change to RQ's records; a waiter blocks on the worker's bell; the runner
owns the engine's thread; lease, publisher, cancellations and calls have one each.

`RQ_INTERNALS` lists what is relied on beyond RQ's documented interface; a test pins it to the version.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import redis
from rq.executions import Execution
from rq.job import JobStatus
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from shared.clock import RedisClock
from shared.errors import GatewayError, RequestCancelledError, WireError, WorkerLostError
from shared.events import Usage
from shared.keys import Names, job_id
from shared.places import RESERVED_PLACES, Counts
from shared.registry import WorkerLease
from shared.request import PRIORITIES
from shared.seal import HostKey
from shared.wire import JobSerializer
from worker.engines.base import EngineInfo, EngineStats
from worker.rq import records
from worker.rq.claims import Backlog, Claimed, Claims
from worker.rq.gate import quotas
from worker.rq.once import RunOnce
from worker.rq.pauses import Pauses
from worker.rq.reaping import reap as reap
from worker.rq.reaping import release_lists
from worker.rq.records import Slot
from worker.rq.recovery import Recovery
from worker.rq.safe_job import SafeJob, SafeQueue, ticket_of
from worker.rq.waiter import BellWaiter
from worker.serving.lease import LeaseKeeper
from worker.serving.reports import Accepted, Broken, Ended, Loaded, LoadFailed, Loading, Report
from worker.serving.runner import Runner
from worker.serving.ticket import Ticket
from worker.status import (
    EXIT_ENGINE_BROKEN,
    EXIT_LOAD_FAILED,
    EXIT_STALLED,
    EXIT_STOPPED,
    Status,
    StatusPipe,
)

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

BEAT_S = 1.0
GATE_EVERY_S = 0.02
_TOKENS_PER_BYTE = 0.3  # of a body: about what text in most languages takes
WORKER_TTL_S = 15
_ENGINE_END_S = 5.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain, or with `now` end at once."""

    now: bool = False
    status: int = EXIT_STOPPED


@dataclass(frozen=True, slots=True)
class StopJob:
    """An operator's stop-job command."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Rung:
    """Somebody has put jobs on our lists."""


Message = Report | Rung | Stop | StopJob


class EngineWorker(BaseWorker):  # type: ignore[misc]
    """An RQ worker around a `Runner`. `serve` blocks until the worker is over and gives its exit status.

    `inbox` is where every other thread speaks to the control loop. `has_hung` says afterwards whether the engine's
    thread did not end, so that the process must be ended without waiting for it.
    """

    job_class = SafeJob
    queue_class = SafeQueue

    def __init__(
        self,
        client: redis.Redis,
        runner: Runner,
        inbox: SimpleQueue[Message],
        names: Names,
        key: HostKey,
        clock: RedisClock,
        *,
        name: str,
        model: str,
        lease: WorkerLease,
        capacity: int,
        execution_ttl_s: float,
        stall_s: float,
        drain_s: float,
        status: StatusPipe,
        on_ready: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        own = [names.worker_queue(model, name, priority) for priority in PRIORITIES]
        shared = [names.queue(model, priority) for priority in PRIORITIES]
        super().__init__(
            [*own, *shared], name=name, connection=client, serializer=JobSerializer, worker_ttl=WORKER_TTL_S
        )
        self._runner = runner
        self._clock = clock
        self._inbox = inbox
        self._capacity = capacity
        self._execution_ttl_s = execution_ttl_s
        self._stall_s = stall_s
        self._drain_s = drain_s
        self._status = status
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._lease = replace(lease, worker=name, model=model, queues=tuple(own), capacity=capacity)
        self._keeper = LeaseKeeper(client, names, key, self.describe, execution_ttl_s=execution_ttl_s)
        self._claims = Claims(
            client, names, model, name, clock=clock, execution_ttl_s=execution_ttl_s, worker_ttl_s=WORKER_TTL_S
        )
        self._waiter = BellWaiter(client, names.bell(name), lambda: inbox.put(Rung()))
        self._own_queues, self._shared_queues = self.queues[: len(own)], self.queues[len(own) :]
        self._recovery = Recovery(client, self._shared_queues)
        self._backlog = Backlog()
        self._once = RunOnce()
        self._pauses = Pauses()
        self._names = names
        self._slots: dict[str, Slot] = {}
        self._jobs: dict[Ticket, str] = {}
        self._unrecorded: list[tuple[Slot, Ended]] = []
        self._is_suspended = False
        self._drain_until_s: float | None = None
        self._exit: int | None = None
        self._next_beat_s = 0.0
        self._is_redis_away = False
        self.has_hung = False

    # --- the stock worker, made ours -----------------------------------------------------------------------------

    @property
    def connection_timeout(self) -> float:
        """Keep the client's own time-outs: stock RQ raises them to minutes, for every command."""
        return 0.0

    def work(self, *_args: Any, **_kwargs: Any) -> bool:
        return self.serve() == EXIT_STOPPED

    def execute_job(self, job: SafeJob, queue: SafeQueue) -> None:
        raise NotImplementedError("jobs run in the engine's batch")

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: the first drains, the second ends at once."""
        self._inbox.put(Stop(now=self._drain_until_s is not None))

    def handle_payload(self, message: bytes) -> None:
        """A command of RQ's (on the listener's thread)."""
        try:
            payload = json.loads(message)
            command, job_id = payload.get("command"), payload.get("job_id")
        except (ValueError, AttributeError) as error:
            log.warning("a command that cannot be read: %s", error)
            return
        if command == "stop-job" and isinstance(job_id, str):
            self._inbox.put(StopJob(job_id))
        elif command == "shutdown":
            self._inbox.put(Stop())
        else:
            log.info("command %r is not for this kind of worker", command)

    # --- the control loop ----------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Load, serve, and end as asked. Raises `redis.RedisError` when Redis is away at the start."""
        self.register_birth()
        self.set_state(WorkerStatus.STARTED)
        self._keeper.write()
        self._keeper.start()
        self._runner.start()
        self._tell(Status(state="loading"))
        try:
            while self._exit is None:
                self._beat_if_due()
                self._handle_messages()
        finally:
            self._close()
        assert self._exit is not None
        return self._exit

    def describe(self) -> WorkerLease:
        """The lease as of now (from any thread)."""
        stats, info, totals, pace = self._runner.stats(), self._runner.info, self._runner.totals, self._runner.pace
        lease = self._lease
        if self._runner.stalled_s() > self._stall_s:
            lease = replace(lease, state="stalled")
        if info is not None:
            lease = replace(
                lease,
                context_tokens=info.context_tokens,
                supports_tools=info.supports_tools,
                supports_reasoning=info.supports_reasoning,
                supports_images=info.supports_images,
                template=info.template,
            )
        return replace(
            lease,
            in_flight=len(self._slots),
            waiting_tokens=stats.waiting_tokens,
            prefill_tokens_per_s=stats.prefill_tokens_per_s,
            decode_tokens_per_s=stats.decode_tokens_per_s,
            cache_bytes=stats.cache_bytes,
            held=self._held(),
            queued=self._backlog.waiting,
            placed=self._backlog.placed,
            waiting_s=stats.waiting_s,
            prefill_s=pace.prefill_s.mean,
            service_s=pace.service_s.mean,
            service_deviation_s=pace.service_s.deviation,
            metrics={
                **stats.metrics,
                "running": float(stats.running),
                "waiting": float(stats.waiting),
                "requests_finished_total": float(totals.finished),
                "requests_failed_total": float(totals.failed),
                "requests_cancelled_total": float(totals.cancelled),
                "input_tokens_total": float(totals.input_tokens),
                "cached_tokens_total": float(totals.cached_tokens),
                "restored_tokens_total": float(totals.restored_tokens),
                "output_tokens_total": float(totals.output_tokens),
                "resumed_tokens_total": float(totals.resumed_tokens),
            },
        )

    def _tell(self, status: Status) -> None:
        self._status.send(replace(status, worker=self.name))

    def _handle_messages(self) -> None:
        """Wait for a message until the next beat is due, or until more may be taken; then take what may be."""
        is_rung = False
        try:
            message = self._inbox.get(timeout=max(0.0, self._wake_s() - time.monotonic()))
            while True:
                if isinstance(message, Rung):
                    is_rung = True
                else:
                    self._handle(message)
                message = self._inbox.get_nowait()
        except Empty:
            pass
        if is_rung or any(self._backlog.waiting):
            self._claim()

    def _wake_s(self) -> float:
        """On the monotonic clock. While jobs wait the prefill ahead of them is looked at again and again."""
        if not any(self._backlog.waiting):
            return self._next_beat_s
        return min(self._next_beat_s, time.monotonic() + GATE_EVERY_S)

    def _handle(self, message: Report | Stop | StopJob) -> None:
        match message:
            case Ended():
                self._release(message)
            case Accepted(ticket=ticket):
                self._note_accepted(ticket)
            case Loading(done=done):
                self._lease = replace(self._lease, load_done=done)
                self._tell(Status(state="loading", done=done))
            case Loaded(info=info):
                self._begin(info)
            case LoadFailed(error=error):
                log.error("the model cannot be loaded: %s", error.message)
                self._tell(Status(state="failed", reason=error.message, code=error.code))
                self._exit = EXIT_LOAD_FAILED
            case Broken():
                self._exit = EXIT_ENGINE_BROKEN
            case Stop():
                self._stop(message)
            case StopJob(job_id=job_id):
                self._stop_job(job_id)

    def _begin(self, info: EngineInfo) -> None:
        """The model is loaded: take jobs, as many at once as the engine has places and the settings allow."""
        if info.capacity:
            self._capacity = min(self._capacity, info.capacity)
            self._lease = replace(self._lease, capacity=self._capacity)
        if info.can_pause:
            self._lease = replace(self._lease, reserved_places=RESERVED_PLACES)
        if self._drain_until_s is not None:
            return
        self._lease = replace(self._lease, state="ready", load_done=1.0)
        with self._patience("set the worker idle"):
            self._keeper.write()
            self.set_state(WorkerStatus.IDLE)
        self._waiter.start()
        self._on_ready()
        self._tell(Status(state="ready", done=1.0))
        log.info("worker %s serves %s", self.name, self._lease.model)

    def _stop(self, stop: Stop) -> None:
        if stop.now or not self._is_ready():
            self._exit = stop.status
        elif self._drain_until_s is None:
            log.info("draining: %d requests under way", len(self._slots))
            self._drain_until_s = time.monotonic() + self._drain_s
            self._lease = replace(self._lease, state="draining")
            self._keeper.renew()
            self._tell(Status(state="draining"))
            self._exit_when_drained()

    def _is_ready(self) -> bool:
        return self._lease.state != "loading"

    def _exit_when_drained(self) -> None:
        if self._drain_until_s is not None and (not self._slots or time.monotonic() >= self._drain_until_s):
            self._exit = EXIT_STOPPED

    def _note_accepted(self, ticket: Ticket) -> None:
        slot = self._slots.get(self._jobs.get(ticket, ""))
        if slot is not None:
            slot.is_in_engine = True

    def _stop_job(self, job_id: str) -> None:
        slot = self._slots.get(job_id)
        if slot is None:
            log.info("job %s does not run here", job_id)
            return
        slot.is_stopped = True
        self._runner.cancel(slot.ticket.request_id, RequestCancelledError("stopped by an operator"))

    # --- taking jobs ---------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Take what waits on our lists, no more than can be begun."""
        if not self._is_ready() or self._drain_until_s is not None or self._is_suspended or self._exit is not None:
            return
        stats = self._runner.stats()
        s_per_byte = _TOKENS_PER_BYTE / stats.prefill_tokens_per_s if stats.prefill_tokens_per_s else 0.0
        ahead_s = self._ahead_s(stats, s_per_byte)
        reserved = self._lease.reserved_places
        allowed = quotas(
            capacity=self._capacity, reserved=reserved, held=self._held(), ahead_s=ahead_s, s_per_byte=s_per_byte
        )
        if not any(quota.most and quota.ahead_bytes for quota in allowed):
            return
        with self._patience("claim jobs"):
            taken = self._claims.claim(allowed, now())
            if taken.jobs or taken.backlog != self._backlog:
                self._keeper.renew()
            self._backlog = taken.backlog
            for claimed in taken.jobs:
                self._start(claimed)
            self._make_places()

    def _make_places(self) -> None:
        """For requests of the first class that were taken beyond the capacity."""
        held = {job: slot.claimed.priority for job, slot in self._slots.items()}
        in_engine = {job for job, slot in self._slots.items() if slot.is_in_engine}
        for job in self._pauses.choose(held, in_engine, self._capacity):
            log.info("job %s is paused: others come first", job)
            self._runner.pause(self._slots[job].ticket.request_id)

    def _held(self) -> Counts:
        """What runs here or is prepared, by class (from any thread)."""
        slots = list(self._slots.values())
        return tuple(sum(slot.claimed.priority == priority for slot in slots) for priority in PRIORITIES)

    def _ahead_s(self, stats: EngineStats, s_per_byte: float) -> list[float]:
        """Predicted prefill of what was taken, by class: what the engine has, and what is on its way there."""
        ahead_s = list(stats.waiting_s) or [0.0] * len(PRIORITIES)
        for slot in self._slots.values():
            if not slot.is_in_engine:
                ahead_s[PRIORITIES.index(slot.claimed.priority)] += slot.claimed.body_bytes * s_per_byte
        return ahead_s

    def _start(self, claimed: Claimed) -> None:
        queue = next(queue for queue in self._shared_queues if queue.name == claimed.queue)
        slot = Slot(claimed, queue, Ticket("", 0, ""), now(), claimed.execution_id)
        try:
            slot.ticket = ticket_of(claimed.fields)
            if not self._once.take(slot.ticket, time.monotonic()):
                raise WireError("this attempt of the request has run here already")
        except WireError as refusal:
            log.error("job %s refused: %s", slot.job_id, refusal)  # noqa: TRY400 - no fault of ours to trace
            self._record(slot, Ended(slot.ticket, refusal, Usage()))
            return
        self._slots[slot.job_id] = slot
        self._jobs[slot.ticket] = slot.job_id
        is_its_own = claimed.job_id == job_id(slot.ticket.request_id, slot.ticket.attempt)
        self._runner.submit(slot.ticket, claimed.body if is_its_own else None)

    # --- letting go of them --------------------------------------------------------------------------------------

    def _release(self, ended: Ended) -> None:
        job_id = self._jobs.pop(ended.ticket, None)
        slot = self._slots.pop(job_id, None) if job_id is not None else None
        if slot is None:
            return
        self._keeper.renew()
        self._record(slot, ended)
        self._exit_when_drained()

    def _record(self, slot: Slot, ended: Ended) -> None:
        """Now, or as soon as Redis is back."""
        self._unrecorded.append((slot, ended))
        self._record_all()

    def _record_all(self) -> None:
        if not self._unrecorded:
            return
        with self._patience("record ended jobs"):
            while self._unrecorded:
                slot, ended = self._unrecorded[0]
                records.end(self, slot, ended, busy_with=next(iter(self._slots), None), resting=self._resting_state())
                self._unrecorded.pop(0)

    # --- heartbeat -----------------------------------------------------------------------------------------------

    def _beat_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_beat_s:
            return
        self._next_beat_s = now_s + BEAT_S
        if self._runner.stalled_s() > self._stall_s:
            self._end_stalled()
            return
        self._runner.expire(self._clock.now_s())
        with self._patience("beat"):
            self._beat()
            self._recovery.run_if_due()
        self._record_all()
        self._exit_when_drained()

    def _beat(self) -> None:
        slots = list(self._slots.values())
        pulse = self._claims.beat([slot.held for slot in slots], now())
        if pulse is None:
            self._register_again(slots)
            return
        for slot, status in zip(slots, pulse.statuses, strict=True):
            if status != "started":
                log.info("job %s is %s: ending it", slot.job_id, status or "gone")
                self._runner.cancel(slot.ticket.request_id, self._ended_by_others(status))
        self._backlog = pulse.backlog
        if pulse.is_suspended != self._is_suspended:
            self._suspend(pulse.is_suspended)

    def _ended_by_others(self, status: str) -> GatewayError:
        if status == JobStatus.FAILED:
            return WorkerLostError("this worker was taken for dead", worker=self.name)
        return RequestCancelledError("the job was cancelled")

    def _suspend(self, is_suspended: bool) -> None:
        """`rq suspend` and `rq resume`: take no new jobs meanwhile."""
        self._is_suspended = is_suspended
        log.info("suspended" if is_suspended else "resumed")
        self.set_state(WorkerStatus.BUSY if self._slots and not is_suspended else self._resting_state())

    def _resting_state(self) -> WorkerStatus:
        """RQ's word for a worker without jobs."""
        if not self._is_ready():
            return WorkerStatus.STARTED
        return WorkerStatus.SUSPENDED if self._is_suspended else WorkerStatus.IDLE

    def _register_again(self, slots: list[Slot]) -> None:
        """Redis came back empty, or we were away for too long: our records again, while generation goes on."""
        log.warning("Redis has forgotten this worker and its %d jobs: registering again", len(slots))
        self.connection.delete(self.key)
        self.register_birth()
        for slot in slots:
            job = slot.job(self)
            if self.connection.hget(job.key, "status") not in (None, b"started"):
                continue  # ended by somebody else: the next beat sees it
            with self.connection.pipeline(transaction=True) as pipe:
                pipe.sadd(SafeQueue.redis_queues_keys, slot.queue.key)
                job.save(pipeline=pipe)
                slot.execution_id = Execution.create(job, round(self._execution_ttl_s), pipe, self.name).id
                pipe.execute()
        self.set_state(WorkerStatus.BUSY if slots else self._resting_state())
        self.set_current_job_id(next(iter(self._slots), None))
        self._next_beat_s = 0.0  # RQ's entries end by our clock, those of a beat by that of Redis

    def _end_stalled(self) -> None:
        """A hung engine: say so, stop beating for its jobs, and make room for a new worker."""
        log.error("the engine has made no progress for %.0f s", self._runner.stalled_s())
        self._lease = replace(self._lease, state="stalled")
        self._tell(Status(state="stalled"))
        self._runner.end_all(WorkerLostError("the engine stopped making progress", worker=self.name))
        self._exit = EXIT_STALLED

    @contextmanager
    def _patience(self, task: str) -> Iterator[None]:
        """Redis may go away at any moment; what was to be done is done again later."""
        try:
            yield
        except redis.RedisError as error:
            if not self._is_redis_away:
                log.warning("could not %s: %s", task, error)
            self._is_redis_away = True
        else:
            self._is_redis_away = False

    # --- the end -------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Nothing is taken, everything that runs gets an answer, and nothing of ours stays in Redis."""
        exit_status = self._exit
        self._drain_until_s = self._drain_until_s or time.monotonic()
        self._on_stop()
        self._waiter.stop()
        self._runner.end_all(WorkerLostError("the worker is stopping", worker=self.name))
        self._settle()
        can_end = self._is_ready() and exit_status != EXIT_STALLED
        self.has_hung = not self._runner.stop(_ENGINE_END_S if can_end else 0.0)
        self._settle()
        with self._patience("leave"):
            self._keeper.release()  # from here on nobody puts a job on our lists
            self.register_death()
        with self._patience("free the lists"):
            release_lists(self.connection, self._names, self.name, [queue.name for queue in self._own_queues])
        self._exit = exit_status

    def _settle(self) -> None:
        """Handle what is still in the inbox: ends to record."""
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Ended):
                self._release(message)
        self._record_all()
