"""Accepts a request or refuses it, before it waits: honest about how long the wait would be.

Everything is measured in seconds. A queue moves one request per `service_s / slots` seconds, where `service_s` is
how long an answer took lately (`History`) and a slot is one place in a ready worker's batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import OverloadedError
from shared.registry import Fleet
from shared.request import Priority

_SHORTEST_S, _LONGEST_S = 1, 60  # Claude Code shows longer waits as an error instead of waiting
_SMOOTHING = 0.2
_FIRST_GUESS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What waits for one model. `queued` counts jobs no worker has claimed, by all gateways; `outstanding` counts
    this gateway's requests, claimed or not, and is exact where `queued` is a fraction of a second old."""

    queued: int
    outstanding: int
    service_s: float


def queue_of(priority: Priority, max_queue: int) -> int:
    """How many requests may wait before one of this class is refused: batch work leaves half of the queue to people."""
    return max(1, max_queue // 2) if priority == "batch" else max_queue


def admit(fleet: Fleet, model: str, load: Load, *, max_queue: int, deadline_s: float) -> None:
    """Raise `OverloadedError` with `retry_after_s` (1..60) when the queue is full or the predicted wait is longer
    than `deadline_s` (seconds that a request of this class may wait)."""
    slots = sum(max(1, worker.capacity) for worker in fleet.ready_workers(model))
    waiting = max(load.queued, load.outstanding - slots)
    move_s = load.service_s / max(1, slots)
    if waiting >= max_queue:
        raise OverloadedError(
            f"{waiting} requests are already waiting for {model}",
            retry_after_s=_clamped((waiting - max_queue + 1) * move_s),
            reason="queue_full",
        )
    wait_s = predicted_wait_s(fleet, model, waiting=waiting, move_s=move_s)
    if wait_s > deadline_s:
        raise OverloadedError(
            f"a request for {model} would wait about {wait_s:.0f} s now, more than the {deadline_s:.0f} s it may",
            retry_after_s=_clamped(wait_s - deadline_s),
            reason="wait_too_long",
        )


def predicted_wait_s(fleet: Fleet, model: str, *, waiting: int, move_s: float) -> float:
    """Seconds until a request that comes now is started: the queue before it, then the prompt tokens that the
    least busy worker still has to prefill. 0 while nothing is known."""
    prefills_s = [
        worker.waiting_tokens / worker.prefill_tokens_per_s
        for worker in fleet.ready_workers(model)
        if worker.prefill_tokens_per_s > 0
    ]
    return waiting * move_s + min(prefills_s, default=0.0)


def _clamped(seconds: float) -> int:
    return min(_LONGEST_S, max(_SHORTEST_S, math.ceil(seconds)))


class History:
    """What this gateway saw lately: how long a model's answers took, and which model was used last."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self.last_model = ""

    def note(self, model: str, seconds: float) -> None:
        """One whole answer."""
        before = self._seconds.get(model, seconds)
        self._seconds[model] = before + _SMOOTHING * (seconds - before)
        self.last_model = model

    def service_s(self, model: str) -> float:
        """Exponential average of the seconds that an answer takes."""
        return self._seconds.get(model, _FIRST_GUESS_S)
