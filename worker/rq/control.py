"""The control loop of a worker: one engine runs many jobs at a time, and RQ's records say so.

Threads: the control loop, on the main thread, makes every change to RQ's records; a waiter blocks on the worker's bell;
the runner owns the engine's thread and those beside it; lease, publisher and cancellations have one each.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from types import FrameType

import redis
from rq.job import JobStatus
from rq.utils import now
from rq.worker import WorkerStatus

from shared.beats import until_beat_s
from shared.clock import RedisClock
from shared.errors import GatewayError, RequestCancelledError, WireError, WorkerLostError
from shared.events import Usage
from shared.keys import Names, host_of, job_id
from shared.places import RESERVED_PLACES
from shared.registry import WorkerLease
from shared.seal import HostKey
from shared.steady import Steady
from shared.work import KINDS_BY_NAME, has_lane
from worker.engines.base import EngineInfo
from worker.rq.claims import Backlog, Claimed, Claims, Held, Pulse
from worker.rq.gate import may_take, prefill_ahead_s, quotas, quotas_beside, s_per_byte_at
from worker.rq.in_flight import InFlight
from worker.rq.once import RunOnce
from worker.rq.outcomes import Outcomes
from worker.rq.patience import Patience
from worker.rq.pauses import Pauses
from worker.rq.reaping import release_lists
from worker.rq.records import Slot
from worker.rq.recovery import Recovery
from worker.rq.safe_job import ticket_of
from worker.rq.waiter import BellWaiter, Rung
from worker.rq.worker import WORKER_TTL_S, EngineWorker, Stop, StopJob
from worker.serving.figures import with_figures
from worker.serving.handlers import THREADS_BESIDE
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
    failed_status,
)

log = logging.getLogger(__name__)

BEAT_S = 1.0
_MOST_GAP_S = BEAT_S + 1.0  # between two beats of a machine at work
GATE_EVERY_S = 0.02
_ENGINE_END_S = 5.0


Message = Report | Rung | Stop | StopJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In seconds: how long an execution lives in Redis without a beat, a step may take, and what runs has to end when
    the worker stops."""

    execution_ttl_s: float
    stall_s: float
    drain_s: float


_OURS = (JobStatus.STARTED, JobStatus.QUEUED)  # the second where Redis came back with a file from before our claim


class ControlLoop:
    """Runs jobs in a `Runner`. `serve` blocks until the worker is over and gives its exit status.

    `inbox` is where every other thread speaks to the loop. `rq` is this worker in RQ's records. `has_hung` says
    afterwards whether the engine's thread did not end, so that the process must be ended without waiting for it.
    """

    def __init__(
        self,
        client: redis.Redis,
        runner: Runner,
        inbox: SimpleQueue[Message],
        names: Names,
        key: HostKey,
        clock: RedisClock,
        *,
        lease: WorkerLease,
        limits: Limits,
        status: StatusPipe,
        on_stop: Callable[[], None] = lambda: None,
        is_member: bool = False,
    ) -> None:
        name, model = lease.worker, lease.model
        self.rq = EngineWorker(client, names, name=name, model=model, post=inbox.put)
        self._client = client
        self._runner = runner
        self._clock = clock
        self._inbox = inbox
        self._limits = limits
        self._status = status
        self._on_stop = on_stop
        self._lease = replace(lease, queues=tuple(queue.name for queue in self.rq.own_queues))
        self._most_at_once = lease.capacity
        self._keeper = LeaseKeeper(
            client,
            names,
            key,
            self.describe,
            execution_ttl_s=limits.execution_ttl_s,
            residents=lambda: runner.stats().residents,
            held_jobs=lambda: self._jobs.claimed(),
        )
        self._claims = Claims(
            client, names, model, name, clock=clock, execution_ttl_s=limits.execution_ttl_s, worker_ttl_s=WORKER_TTL_S
        )
        self._waiter = BellWaiter(client, names.bell(name), lambda: inbox.put(Rung()))
        self._recovery = Recovery(client, names, self.rq.shared_queues, host_of(name) if is_member else "", clock)
        self._patience = Patience()
        self._outcomes = Outcomes(self.rq, self._patience)
        self._once = RunOnce()
        self._backlog, self._pauses = Backlog(), Pauses()
        self._is_rung = False  # something has come since Redis was asked for jobs
        self._names, self._is_member = names, is_member
        self._jobs = InFlight()
        self._is_suspended = self._is_told_at_work = self.has_hung = False
        self._drain_until_s: float | None = None
        self._exit: int | None = None
        self._next_beat_s, self._steady = 0.0, Steady(_MOST_GAP_S)

    def request_stop(self, _signum: int, _frame: FrameType | None) -> None:
        """Signal handler: the first drains, the second ends at once."""
        self._inbox.put(Stop(now=self._drain_until_s not in (None, math.inf)))

    def request_unload(self, _signum: int, _frame: FrameType | None) -> None:
        """Signal handler: nothing new is taken, and what runs may take its time."""
        self._inbox.put(Stop(is_patient=True))

    def serve(self) -> int:
        """Load, serve, and end as asked. Raises `redis.RedisError` when Redis is away at the start."""
        self.rq.begin()
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
        held = self._jobs.held()
        lease = with_figures(
            replace(self._lease, capacity=self._capacity()),
            self._runner,
            self._stalled_s(),
            stall_s=self._limits.stall_s,
        )
        coming_s = self._jobs.on_the_way_s(s_per_byte_at(lease.prefill_tokens_per_s))
        return replace(
            lease,
            waiting_s=prefill_ahead_s(lease.waiting_s, coming_s) if lease.waiting_s or any(coming_s) else (),
            in_flight=sum(held),
            held=held,
            queued=self._backlog.waiting,
            placed=self._backlog.placed,
            beside=dict(self._backlog.beside),
        )

    def _tell(self, status: Status) -> None:
        self._status.send(replace(status, worker=self.rq.name))

    def _tell_work(self) -> None:
        """Let the host know when work begins, and at a beat that there is none any more: mostly more comes at once."""
        in_flight = len(self._jobs)
        if bool(in_flight) != self._is_told_at_work and self._lease.state == "ready":
            self._is_told_at_work = bool(in_flight)
            self._tell(Status(state="ready", done=1.0, in_flight=in_flight))

    def _handle_messages(self) -> None:
        """Wait for a message until the next beat is due, or until more may be taken; then take what may be."""
        try:
            message = self._inbox.get(timeout=max(0.0, self._wake_s() - time.monotonic()))
            while True:
                if isinstance(message, Rung):
                    self._is_rung = True
                else:
                    self._handle(message)
                message = self._inbox.get_nowait()
        except Empty:
            pass
        if self._is_rung or not self._backlog.is_empty:
            self._claim()

    def _wake_s(self) -> float:
        """On the monotonic clock. While jobs wait the prefill ahead of them is looked at again and again."""
        if self._backlog.is_empty:
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
                self._tell(Status(state="loading", done=done, has_room=True))
            case Loaded(info=info):
                self._begin(info)
            case LoadFailed(error=error):
                log.error("the model cannot be loaded: %s", error.message)
                self._tell(failed_status(error))
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
            self._lease = replace(self._lease, capacity=min(self._most_at_once, info.capacity))
        if info.can_pause:
            self._lease = replace(self._lease, reserved_places=RESERVED_PLACES)
        if self._drain_until_s is not None:
            return
        self._lease = replace(self._lease, state="ready", load_done=1.0)
        with self._patience("set the worker idle"):
            self._keeper.write()
            self.rq.set_state(WorkerStatus.IDLE)
        self._waiter.start()
        self._tell(Status(state="ready", done=1.0))
        log.info("worker %s serves %s", self.rq.name, self._lease.model)

    def _capacity(self) -> int:
        """As many as the engine has found out that it runs, no more than the settings allow."""
        found = self._runner.stats().capacity
        return min(self._most_at_once, found) if found else self._lease.capacity

    def _stop(self, stop: Stop) -> None:
        if stop.now or not self._is_ready():
            self._exit = stop.status
        elif self._drain_until_s is None or (self._drain_until_s == math.inf and not stop.is_patient):
            log.info("draining: %d requests under way", len(self._jobs))
            self._drain_until_s = math.inf if stop.is_patient else time.monotonic() + self._limits.drain_s
            self._lease = replace(self._lease, state="draining")
            self._keeper.renew()
            self._runner.give_back(WorkerLostError("the worker is stopping", worker=self.rq.name))
            self._tell(Status(state="draining"))
            self._exit_when_drained()

    def _is_ready(self) -> bool:
        return self._lease.state != "loading"

    def _exit_when_drained(self) -> None:
        if self._drain_until_s is not None and (not self._jobs or time.monotonic() >= self._drain_until_s):
            self._exit = EXIT_STOPPED

    def _note_accepted(self, ticket: Ticket) -> None:
        slot = self._jobs.of_ticket(ticket)
        if slot is not None:
            slot.is_in_engine = True
            self._make_places()

    def _stop_job(self, job_id: str) -> None:
        slot = self._jobs.of_job(job_id)
        if slot is None:
            log.info("job %s does not run here", job_id)
            return
        slot.is_stopped = True
        self._runner.cancel(slot.ticket.request_id, RequestCancelledError("stopped by an operator"))

    # --- taking jobs ---------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Take what waits on our lists, no more than can be begun. Redis is asked only where that may bring something;
        what has come while nothing could be begun is asked for later."""
        if not self._is_ready() or self._drain_until_s is not None or self._is_suspended or self._exit is not None:
            return
        stats = self._runner.stats()
        s_per_byte = s_per_byte_at(stats.prefill_tokens_per_s)
        in_batch = quotas(
            capacity=self._capacity(),
            reserved=self._lease.reserved_places,
            held=self._jobs.held(),
            ahead_s=prefill_ahead_s(stats.waiting_s, self._jobs.on_the_way_s(s_per_byte)),
        )
        allowed = [*in_batch, *quotas_beside(THREADS_BESIDE, self._jobs.held_beside())]
        if not may_take(allowed, None if self._is_rung else self._backlog.by_lane):
            return
        with self._patience("claim jobs"):
            taken = self._claims.claim(allowed, now(), s_per_byte=s_per_byte)
            self._is_rung = False
            has_changed = bool(taken.jobs) or taken.backlog != self._backlog
            for claimed in taken.jobs:
                self._start(claimed)
            self._backlog = taken.backlog  # last: a lease in between counts a job twice rather than not at all
            if has_changed:
                self._keeper.renew()

    def _make_places(self) -> None:
        """For requests of the first class that run beyond the capacity."""
        in_engine = {slot.job_id: slot for slot in self._jobs.slots() if slot.is_in_engine}
        for job in self._pauses.choose(self._jobs.in_batch(), in_engine.keys(), self._lease.capacity):
            log.info("job %s is paused: others come first", job)
            self._runner.pause(in_engine[job].ticket.request_id)

    def _start(self, claimed: Claimed) -> None:
        queue = next(queue for queue in self.rq.shared_queues if queue.name == claimed.queue)
        running = self._jobs.of_job(claimed.job_id)
        if running is not None:  # Redis came back with what it knew before it ran here
            running.execution_id = claimed.execution_id
            return
        slot = Slot(claimed, queue, Ticket("", 0, ""), now(), claimed.execution_id)
        try:
            slot.ticket = ticket_of(claimed.fields)
            if not has_lane(KINDS_BY_NAME[slot.ticket.kind], claimed.lane):
                raise WireError(f"a job to {slot.ticket.kind} waits in the lane {claimed.lane}")
            if not self._once.take(slot.ticket, time.monotonic()):
                raise WireError("this attempt of the request has run here already")
        except WireError as refusal:
            log.error("job %s refused: %s", slot.job_id, refusal)  # noqa: TRY400 - no fault of ours to trace
            self._jobs.note_gone(slot.job_id)
            self._record(slot, Ended(slot.ticket, refusal, Usage()))
            return
        self._jobs.add(slot)
        is_its_own = claimed.job_id == job_id(slot.ticket.request_id, slot.ticket.attempt)
        self._runner.submit(slot.ticket, claimed.body if is_its_own else None)
        self._tell_work()

    def _release(self, ended: Ended) -> None:
        slot = self._jobs.release(ended.ticket)
        if slot is None:
            return
        self._make_places()
        self._keeper.renew()
        self._record(slot, ended)
        self._exit_when_drained()

    def _record(self, slot: Slot, ended: Ended) -> None:
        self._outcomes.add(slot, ended)
        self._record_all()

    def _record_all(self) -> None:
        self._outcomes.record(busy_with=self._jobs.oldest_job(), resting=self._resting_state())

    # --- heartbeat -----------------------------------------------------------------------------------------------

    def _beat_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_beat_s:
            return
        self._next_beat_s = now_s + until_beat_s(BEAT_S, now_s)
        self._steady.look()
        if self._stalled_s() > self._limits.stall_s:
            self._end_stalled()
            return
        self._runner.expire(self._clock.now_s())
        self._tell_work()
        with self._patience("beat"):
            # Else our own entries look as if they had ended, or those of all who have just woken with us.
            if self._beat() and self._steady.for_s > _MOST_GAP_S:
                self._recovery.run_if_due()
        self._record_all()
        self._exit_when_drained()

    def _stalled_s(self) -> float:
        """For how long the engine has had work without a sign of life while this process ran."""
        return min(self._runner.stalled_s(), self._steady.for_s)

    def _beat(self) -> bool:
        """Whether Redis knew us."""
        slots = self._jobs.slots()
        pulse = self._feel([slot.held for slot in slots])
        if pulse is None:
            self._register_again(slots)
            return False
        for slot, status in zip(slots, pulse.statuses, strict=True):
            if status not in _OURS:
                # (What its own gateway left goes on while another hears it.)
                end = self._runner.leave if status == JobStatus.CANCELED else self._runner.cancel
                if end(slot.ticket.request_id, self._ended_by_others(status)):
                    log.info("job %s is %s: it was ended", slot.job_id, status or "gone")
        self._backlog, self._is_rung = pulse.backlog, False
        if pulse.is_suspended != self._is_suspended:
            self._suspend(pulse.is_suspended)
        return True

    def _feel(self, held: Sequence[Held]) -> Pulse | None:
        """The lease is written, too: while nothing runs here in the same round trip, which is one waking for both."""
        if held:
            self._keeper.renew()
            return self._claims.beat(held, now())
        beat = self._claims.asking(held, now())
        self._keeper.write_beside([beat, self._recovery] if self._recovery.is_due else [beat])
        return self._claims.felt(beat)

    def _ended_by_others(self, status: str) -> GatewayError:
        if status == JobStatus.FAILED:
            return WorkerLostError("this worker was taken for dead", worker=self.rq.name)
        return RequestCancelledError("the job was cancelled")

    def _suspend(self, is_suspended: bool) -> None:
        """`rq suspend` and `rq resume`: take no new jobs meanwhile."""
        self._is_suspended = is_suspended
        log.info("suspended" if is_suspended else "resumed")
        self.rq.set_state(WorkerStatus.BUSY if self._jobs and not is_suspended else self._resting_state())

    def _resting_state(self) -> WorkerStatus:
        """RQ's word for a worker without jobs."""
        if not self._is_ready():
            return WorkerStatus.STARTED
        return WorkerStatus.SUSPENDED if self._is_suspended else WorkerStatus.IDLE

    def _register_again(self, slots: list[Slot]) -> None:
        """Redis came back empty, or we were away for too long: our records again, while generation goes on."""
        log.warning("Redis has forgotten this worker and its %d jobs: registering again", len(slots))
        self.rq.register_again(slots, self._limits.execution_ttl_s, resting=self._resting_state())
        self._next_beat_s = 0.0  # RQ's entries end by our clock, those of a beat by that of Redis

    def _end_stalled(self) -> None:
        """A hung engine: say so, stop beating for its jobs, and make room for a new worker."""
        log.error("the engine has made no progress for %.0f s", self._stalled_s())
        self._lease = replace(self._lease, state="stalled")
        self._tell(Status(state="stalled"))
        self._runner.end_all(WorkerLostError("the engine stopped making progress", worker=self.rq.name))
        self._exit = EXIT_STALLED

    def _close(self) -> None:
        """Nothing is taken, everything that runs gets an answer, and nothing of ours stays in Redis."""
        exit_status = self._exit
        self._drain_until_s = self._drain_until_s or time.monotonic()
        self._on_stop()
        self._waiter.stop()
        self._runner.end_all(WorkerLostError("the worker is stopping", worker=self.rq.name))
        self._settle()
        can_end = self._is_ready() and exit_status != EXIT_STALLED
        self.has_hung = not self._runner.stop(_ENGINE_END_S if can_end else 0.0)
        self._settle()
        with self._patience("leave"):
            self._keeper.release()  # from here on nobody puts a job on our lists
            self.rq.register_death()
        with self._patience("free the lists"):
            own = [queue.name for queue in self.rq.own_queues]
            release_lists(self._client, self._names, self.rq.name, own, is_member=self._is_member)
        self._exit = exit_status

    def _settle(self) -> None:
        """Handle what is still in the inbox: ends to record."""
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Ended):
                self._release(message)
        self._record_all()
