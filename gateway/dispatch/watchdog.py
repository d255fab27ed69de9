"""Finds the requests that nobody will answer any more, and says so to their clients.

`verdict` is the whole policy, pure; `Watchdog` collects the facts and acts on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue, JobState
from gateway.dispatch.streams import FrameHub
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

logger = logging.getLogger(__name__)

TICK_S = 0.5
_LOOK_S = 1.0
_FORGET_S = 120.0
_NO_MEMORY_RETRY_S = 30
_LEAST_SILENCE_S = 1.5  # a beat a second, and one that is late


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """For how long what may be wrong is waited out.

    `silence_s`: without a word of a request's worker before anybody asks whether it lives; three beats.
    `broker_away_s`: without Redis. `unserved_s`: without anybody who offers the model, or while its host has no memory
    for it.
    """

    silence_s: float = 3.0
    broker_away_s: float = 5.0
    unserved_s: float = 15.0

    @classmethod
    def of(cls, execution_ttl_s: float) -> Patience:
        """What Redis remembers of running jobs ends after `execution_ttl_s`: hope does not outlast it."""
        most = cls()
        return cls(
            silence_s=max(_LEAST_SILENCE_S, min(most.silence_s, execution_ttl_s / 2)),
            broker_away_s=min(most.broker_away_s, execution_ttl_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One waiting request.

    `remaining_s`: until its work must have begun; infinite once it has. `silent_s`: since its own last event.
    `unheard_s`: since its worker last said anything. `unserved_s`: for how long nobody has offered its model.
    `job` is RQ's record, None when it was not looked up.
    """

    model: str
    remaining_s: float
    silent_s: float
    unheard_s: float
    unserved_s: float = 0.0
    worker: str = ""
    epoch: str = ""
    job: JobState | None = None


def verdict(facts: Facts, fleet: Fleet, patience: Patience) -> GatewayError | None:
    """Why this request will never be answered; None while there is hope."""
    if facts.remaining_s <= 0:
        return DeadlineExceededError("no worker had time for the request before its deadline")
    worker = facts.worker or (facts.job.worker if facts.job is not None else "")
    if worker and facts.unheard_s >= patience.silence_s and not _is_alive(worker, facts.epoch, fleet):
        return _lost(worker)
    if facts.job is not None and facts.job.status == "failed" and worker and not _is_alive(worker, facts.epoch, fleet):
        # Not a silence to be waited out: whoever found the worker dead has ended the job, and no other can.
        return _lost(worker)
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


def _lost(worker: str) -> WorkerLostError:
    return WorkerLostError(f"worker {worker} stopped while it held the request", worker=worker)


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


class Watchdog:
    """Looks at every waiting request twice a second."""

    def __init__(self, hub: FrameHub, fleet: FleetWatcher, jobs: JobQueue, patience: Patience) -> None:
        self._hub = hub
        self._fleet = fleet
        self._jobs = jobs
        self._patience = patience
        self._served_s: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self.tick()
            except (BrokerUnavailableError, TimeoutError) as error:
                logger.debug("requests not checked: %s", error)

    async def tick(self) -> None:
        """One look. Raises `BrokerUnavailableError` or `TimeoutError` when Redis is away (and not yet for too long)."""
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
        for dispatch in dispatches:
            self._judge(dispatch, known.get(job_id(dispatch.request_id, dispatch.attempt.number)))

    def _is_silent(self, dispatch: Dispatch) -> bool:
        """Whether it is time to ask RQ."""
        attempt = dispatch.attempt
        if time.monotonic() - attempt.heard_s >= self._patience.silence_s:
            return True
        return bool(attempt.worker) and not _is_alive(attempt.worker, attempt.epoch, self._fleet.snapshot)

    def _judge(self, dispatch: Dispatch, job: JobState | None) -> None:
        now_s, attempt = time.monotonic(), dispatch.attempt
        # A silence that Redis's own absence explains does not count.
        steady_s = min(self._fleet.connected_s, self._hub.connected_s)
        heard_s = now_s - attempt.heard_s
        unheard_s = min(steady_s, heard_s, self._hub.unheard_s(attempt.worker))
        facts = Facts(
            model=dispatch.model,
            remaining_s=_remaining_s(dispatch),
            silent_s=min(steady_s, heard_s),
            unheard_s=unheard_s,
            unserved_s=now_s - max(dispatch.opened_s, self._served_s.get(dispatch.model, 0.0)),
            worker=attempt.worker,
            epoch=attempt.epoch,
            job=job,
        )
        error = verdict(facts, self._fleet.snapshot, self._patience)
        silence_s = self._patience.silence_s
        if error is not None:
            logger.warning("attempt %d of request %s fails: %s", attempt.number, dispatch.request_id, error)
            dispatch.lose(error)
        elif attempt.worker and silence_s <= unheard_s < silence_s + 2 * TICK_S:
            # Alive, at work and never heard: the subscription is deaf. A new one repairs from the log.
            logger.warning("worker %s is alive but was not heard for %.1f s", attempt.worker, unheard_s)
            self._hub.reconnect()

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
