"""Finds the requests that nobody will answer any more, and says so to their clients.

`verdict` is the whole policy, pure; `Watchdog` collects the facts and acts on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue, JobState
from gateway.dispatch.streams import FrameHub
from shared.beats import until_beat_s
from shared.errors import (
    BrokerUnavailableError,
    DeadlineExceededError,
    GatewayError,
    ModelUnavailableError,
    NoMemoryError,
    OverloadedError,
    RequestCancelledError,
    WorkerLostError,
)
from shared.keys import job_id
from shared.registry import Fleet, ModelRecord
from shared.steady import Steady

logger = logging.getLogger(__name__)

TICK_S = 0.25
_IDLE_TICK_S = 1.0  # while nobody waits for an answer
_MOST_LATE_S = 1.0  # is the next look on a machine at work
_LOOK_S = 1.0
_FORGET_S = 120.0
_NO_MEMORY_RETRY_S = 30
_LEAST_SILENCE_S = 1.5  # two beats a second, and two that are late
_READ_S = 1.0  # for what a lost worker has logged


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """For how long what may be wrong is waited out.

    `suspicion_s`: without a word of a request's worker before another takes over that can begin at once; three beats.
    `silence_s`: before it is given up whether another can or not, if it has no lease either.
    `broker_away_s`: without Redis, which starts again within ten seconds however often it died. `unserved_s`: without
    anybody who offers the model, or while its host has no memory for it.
    """

    suspicion_s: float = 1.5
    silence_s: float = 3.0
    broker_away_s: float = 12.0
    unserved_s: float = 15.0

    @classmethod
    def of(cls, execution_ttl_s: float) -> Patience:
        """What Redis remembers of running jobs ends after `execution_ttl_s`: hope does not outlast it."""
        most = cls()
        return cls(
            silence_s=max(_LEAST_SILENCE_S, min(most.silence_s, execution_ttl_s / 2)),
            broker_away_s=min(most.broker_away_s, 2 * execution_ttl_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One waiting request.

    `remaining_s`: until its work must have begun; infinite once it has. `silent_s`: since its own last event.
    `unheard_s`: since its worker last said anything. `unserved_s`: for how long nobody has offered its model.
    `job` is RQ's record, None when it was not looked up. `holder` is the worker that has it, as far as is known.
    """

    model: str
    remaining_s: float
    silent_s: float
    unheard_s: float
    unserved_s: float = 0.0
    worker: str = ""
    epoch: str = ""
    job: JobState | None = None

    @property
    def holder(self) -> str:
        return self.worker or (self.job.worker if self.job is not None else "")


def suspicion(facts: Facts, fleet: Fleet, patience: Patience) -> GatewayError | None:
    """Why its worker may be lost, so that another should take over if it can at once: it is not heard, or it says
    itself that its engine hangs."""
    worker = facts.holder
    if not worker:
        return None
    if facts.unheard_s >= patience.suspicion_s:
        text = f"worker {worker} has not been heard for {facts.unheard_s:.1f} s"
        return WorkerLostError(text, worker=worker)
    if any(each.worker == worker and each.state == "stalled" for each in fleet.workers):
        return WorkerLostError(f"the engine of worker {worker} makes no progress", worker=worker, is_hang=True)
    return None


def verdict(facts: Facts, fleet: Fleet, patience: Patience) -> GatewayError | None:
    """Why this request will never be answered; None while there is hope."""
    if facts.remaining_s <= 0:
        return DeadlineExceededError("no worker had time for the request before its deadline")
    worker = facts.holder
    if worker and facts.unheard_s >= patience.silence_s and not _is_alive(worker, facts.epoch, fleet):
        return _lost(worker, facts.job)
    if facts.job is not None and facts.job.status == "failed" and worker and not _is_alive(worker, facts.epoch, fleet):
        # Not a silence to be waited out: whoever found the worker dead has ended the job, and no other can.
        return _lost(worker, facts.job)
    if facts.job is None or facts.silent_s < patience.silence_s:
        return None
    match facts.job.status:
        case "":
            return None if worker else BrokerUnavailableError("Redis was restarted and lost the request")
        case "queued":
            return _unserved(facts, fleet, patience)
        case "canceled" | "stopped":
            return RequestCancelledError("the request was cancelled")
        case "finished" | "failed":
            return WorkerLostError("the end of the answer was lost on its way here", worker=worker)
    return None


def _lost(worker: str, job: JobState | None) -> WorkerLostError:
    died = {} if job is None else {"died_with": job.died_with, "died_suspects": job.died_suspects}
    return WorkerLostError(f"worker {worker} stopped while it held the request", worker=worker, **died)


def _is_alive(worker: str, epoch: str, fleet: Fleet) -> bool:
    return any(w.worker == worker and epoch in ("", w.epoch) for w in fleet.workers)


def _unserved(facts: Facts, fleet: Fleet, patience: Patience) -> GatewayError | None:
    reason = fleet.failure(facts.model)
    if reason:
        return ModelUnavailableError(f"model {facts.model} cannot be loaded: {reason}")
    refused = fleet.without_memory(facts.model)
    if refused is not None and facts.silent_s > patience.unserved_s:
        return _no_memory(refused)
    if facts.unserved_s > patience.unserved_s:
        text = f"no worker or host serves {facts.model} at the moment"
        return OverloadedError(text, retry_after_s=patience.unserved_s)
    return None


def _no_memory(refused: ModelRecord) -> NoMemoryError:
    return NoMemoryError(
        f"model {refused.id} is not loaded: {refused.reason}",
        needed_bytes=refused.needed_bytes,
        free_bytes=refused.free_bytes,
        limit_bytes=refused.limit_bytes,
        retry_after_s=_NO_MEMORY_RETRY_S,
    )


@dataclass(slots=True)
class _Look:
    """One look at all requests. `has_news`: by worker, whether it had logged more than was heard."""

    suspects: set[str] = field(default_factory=set)
    has_news: dict[str, bool] = field(default_factory=dict)


class Watchdog:
    """Looks at every waiting request several times a second; less often while there is none."""

    def __init__(self, hub: FrameHub, fleet: FleetWatcher, jobs: JobQueue, patience: Patience) -> None:
        self._hub = hub
        self._fleet = fleet
        self._jobs = jobs
        self._patience = patience
        self._served_s: dict[str, float] = {}
        self._steady = Steady(_IDLE_TICK_S + _MOST_LATE_S)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(until_beat_s(TICK_S if self._hub.dispatches else _IDLE_TICK_S))
            try:
                await self.tick()
            except (BrokerUnavailableError, TimeoutError) as error:
                logger.debug("requests not checked: %s", error)

    async def tick(self) -> None:
        """One look. Raises `BrokerUnavailableError` or `TimeoutError` when Redis is away (and not yet for too long)."""
        self._steady.look()
        dispatches = [dispatch for dispatch in self._hub.dispatches.values() if not dispatch.has_ended]
        self._note_served()
        self._forget_workers()
        if max(self._fleet.away_s, self._hub.away_s) > self._patience.broker_away_s:
            self._hub.fail_all(BrokerUnavailableError("Redis cannot be reached", retry_after_s=5))
            return
        if not (self._fleet.is_connected and self._hub.is_connected):
            self._check_deadlines(dispatches)
            return
        silent = [dispatch for dispatch in dispatches if self._is_silent(dispatch)]
        async with asyncio.timeout(_LOOK_S):  # a Redis that hangs must not hold up the looks to come
            jobs = [job_id(dispatch.request_id, dispatch.attempt.number) for dispatch in silent]
            states = await self._jobs.states(jobs) if jobs else []
        known = dict(zip(jobs, states, strict=True))
        look = _Look()
        for dispatch in dispatches:
            await self._judge(dispatch, known.get(job_id(dispatch.request_id, dispatch.attempt.number)), look)
        self._hub.silent = frozenset(look.suspects)

    def _is_silent(self, dispatch: Dispatch) -> bool:
        """Whether it is time to ask RQ."""
        attempt = dispatch.attempt
        if time.monotonic() - attempt.heard_s >= self._patience.suspicion_s:
            return True
        return bool(attempt.worker) and not _is_alive(attempt.worker, attempt.epoch, self._fleet.snapshot)

    async def _judge(self, dispatch: Dispatch, job: JobState | None, look: _Look) -> None:
        attempt = dispatch.attempt
        facts = self._facts(dispatch, job)
        error = verdict(facts, self._fleet.snapshot, self._patience)
        doubt = suspicion(facts, self._fleet.snapshot, self._patience) if error is None else None
        if doubt is not None:
            look.suspects.add(facts.holder)
        if error is None and doubt is None:
            return
        if facts.worker and await self._has_said_more(facts, look):
            return  # looked at again with the next tick
        if dispatch.has_ended or dispatch.attempt is not attempt:
            return
        if error is not None:
            logger.warning("attempt %d of request %s fails: %s", attempt.number, dispatch.request_id, error)
            self._end(dispatch, error, is_lost_in_queue=not facts.holder)
        elif doubt is not None:
            dispatch.suspect(doubt)
            silence_s = self._patience.silence_s
            if attempt.worker and silence_s <= facts.unheard_s < silence_s + 2 * TICK_S:
                # Alive, at work and never heard: the subscription is deaf. A new one repairs from the log.
                logger.warning("worker %s is alive but was not heard for %.1f s", attempt.worker, facts.unheard_s)
                self._hub.reconnect()

    async def _has_said_more(self, facts: Facts, look: _Look) -> bool:
        """Whether its log held what nobody here has heard, which is passed on. Then it is we who hear badly."""
        worker = facts.worker
        if worker not in look.has_news:
            look.has_news[worker] = await self._hub.read_to_end(worker, _READ_S)
            if look.has_news[worker] and _is_alive(worker, facts.epoch, self._fleet.snapshot):
                self._hub.reconnect()
        return look.has_news[worker]

    def _end(self, dispatch: Dispatch, error: GatewayError, *, is_lost_in_queue: bool) -> None:
        """What Redis has forgotten before anybody took it is sent again."""
        if is_lost_in_queue and isinstance(error, BrokerUnavailableError):
            dispatch.take_back(error)
        else:
            dispatch.lose(error)

    def _facts(self, dispatch: Dispatch, job: JobState | None) -> Facts:
        now_s, attempt = time.monotonic(), dispatch.attempt
        # A silence that Redis's own absence, or ours, explains does not count.
        steady_s = min(self._fleet.connected_s, self._hub.connected_s, self._steady.for_s)
        heard_s = now_s - attempt.heard_s
        if job is not None and job.worker and not attempt.held_s:
            attempt.held_s = now_s
        held_s = heard_s if attempt.worker or not attempt.held_s else now_s - attempt.held_s
        holder = attempt.worker or (job.worker if job is not None else "")
        unheard_s = min(steady_s, held_s, self._hub.unheard_s(holder))
        return Facts(
            model=dispatch.model,
            remaining_s=_remaining_s(dispatch),
            silent_s=min(steady_s, heard_s),
            unheard_s=unheard_s,
            unserved_s=min(steady_s, now_s - max(dispatch.opened_s, self._served_s.get(dispatch.model, 0.0))),
            worker=attempt.worker,
            epoch=attempt.epoch,
            job=job,
        )

    def _check_deadlines(self, dispatches: list[Dispatch]) -> None:
        for dispatch in dispatches:
            if _remaining_s(dispatch) <= 0:
                dispatch.fail(DeadlineExceededError("no worker had time for the request before its deadline"))

    def _note_served(self) -> None:
        now_s = time.monotonic()
        for model in self._fleet.snapshot.model_ids() if self._fleet.is_connected else ():
            self._served_s[model] = now_s

    def _forget_workers(self) -> None:
        alive = {w.worker for w in self._fleet.snapshot.workers}
        for worker in self._hub.workers:
            if worker not in alive and self._hub.unheard_s(worker) > _FORGET_S:
                self._hub.forget(worker)


def _remaining_s(dispatch: Dispatch) -> float:
    return float("inf") if dispatch.attempt.is_running else dispatch.remaining_s
