"""Metrics of placing and of waiting: what was predicted, what was promised by that, and what came."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.outcome import Outcome
from gateway.dispatch.waits import wait_on
from shared.registry import Fleet
from shared.request import PRIORITIES

_ERROR_BUCKETS = (-60, -30, -10, -5, -2, -1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKEN_BUCKETS = (-65536, -16384, -4096, -2048, -512, -128, 0, 128, 512, 2048, 4096, 16384, 65536)

# A first token that comes within so many times what was predicted at admission, or this much later, keeps the promise.
_PROMISE_TIMES: Final = 1.25
_PROMISE_GRACE_S: Final = 1.0

# What `Placed.reason` begins with, and its word as a label: few, and known from the start.
_WORDS: Final[Mapping[str, str]] = {
    "only worker": "only",
    "home": "session",
    "knows": "prefix",
    "begins soon": "load",
    "fewest wait": "load",
    "moves": "moved",
    "no worker": "cold",
}
FAILOVER: Final = "failover"
REASONS: Final = (*dict.fromkeys(_WORDS.values()), FAILOVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """A request of which no worker has said anything, and for how long that is so."""

    model: str
    priority: str
    waited_s: float


class PlacementMetrics:
    """Where requests went and why, and what became of what was predicted there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._placements = Counter(
            "gw_placements", "Requests put on a worker's list, by why there", ("model", "host", "reason"),
            registry=registry,
        )  # fmt: skip
        self._promises = Counter(
            "gw_first_token_promises",
            "First tokens, by whether they came within 1.25 times what was predicted at admission, or within 1 s of it",
            ("model", "class", "kept"),
            registry=registry,
        )
        self._errors = Histogram(
            "gw_placement_error_seconds",
            "What came less what was predicted when a request was placed, in seconds",
            ("term",),
            buckets=_ERROR_BUCKETS,
            registry=registry,
        )
        self._cached_errors = Histogram(
            "gw_cached_error_tokens",
            "Cached tokens of a prompt that were predicted less those that were found",
            ("model",),
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )

    def placed(self, model: str, host: str, reason: str) -> None:
        self._placements.labels(model, host, reason).inc()

    def came(self, model: str, priority: str, outcome: Outcome) -> None:
        if outcome.wait_s is not None:
            self._errors.labels("wait").observe(outcome.wait_s - outcome.predicted_wait_s)
        if outcome.first_s is not None:
            self._errors.labels("first_token").observe(outcome.first_s - outcome.predicted_first_s)
            self._cached_errors.labels(model).observe(outcome.predicted_cached_tokens - outcome.cached_tokens)
            self._promised(model, priority, is_kept=is_promise_kept(outcome.predicted_first_s, outcome.first_s))

    def _promised(self, model: str, priority: str, *, is_kept: bool) -> None:
        for kept in ("yes", "no"):  # both are there from the first on: what is 0 can be divided
            self._promises.labels(model, priority, kept).inc(float(is_kept == (kept == "yes")))


def reason_word(reason: str, *, attempt: int) -> str:
    """The label for why a request was placed where it was; `attempt` counts from 1."""
    if attempt > 1:
        return FAILOVER
    return next((word for beginning, word in _WORDS.items() if reason.startswith(beginning)), "load")


def is_promise_kept(predicted_s: float, came_s: float) -> bool:
    return came_s <= max(_PROMISE_TIMES * predicted_s, predicted_s + _PROMISE_GRACE_S)


class WaitingCollector(Collector):
    """What a request would wait now, how long it may, and who has waited longest. `waiting` gives this gateway's own,
    `deadlines` the seconds that a request of each class may wait."""

    def __init__(
        self, fleet: FleetWatcher, deadlines: Mapping[str, float], waiting: Callable[[], Sequence[Waiter]]
    ) -> None:
        self._fleet = fleet
        self._deadlines = deadlines
        self._waiting = waiting

    def collect(self) -> Iterable[Metric]:
        yield _predicted(self._fleet.snapshot)
        deadline = GaugeMetricFamily(
            "gw_deadline_seconds", "Seconds that a request may wait for its turn", labels=["class"]
        )
        for priority, seconds in self._deadlines.items():
            deadline.add_metric([priority], seconds)
        yield deadline
        yield self._oldest()

    def _oldest(self) -> Metric:
        oldest: dict[tuple[str, str], float] = {
            (model, each): 0.0 for model in self._fleet.snapshot.model_ids() for each in PRIORITIES
        }
        for waiter in self._waiting():
            key = (waiter.model, waiter.priority)
            oldest[key] = max(oldest.get(key, 0.0), waiter.waited_s)
        family = GaugeMetricFamily(
            "gw_queue_oldest_seconds",
            "Seconds that the oldest request of this gateway has waited without a sign of a worker",
            labels=["model", "class"],
        )
        for (model, priority), seconds in oldest.items():
            family.add_metric([model, priority], seconds)
        return family


def _predicted(fleet: Fleet) -> Metric:
    """Of the worker where it is shortest; nothing for a model that no worker holds, or whose workers have measured
    nothing yet and are busy."""
    family = GaugeMetricFamily(
        "gw_predicted_wait_seconds",
        "Seconds until the prefill of a request that came now would begin",
        labels=["model", "class"],
    )
    for model in sorted({worker.model for worker in fleet.workers if worker.state == "ready"}):
        for priority in PRIORITIES:
            found = [wait_on(worker, priority) for worker in fleet.ready_workers(model)]
            waits = [wait.expected_s for wait in found if wait is not None]
            if waits:
                family.add_metric([model, priority], min(waits))
    return family


def waiter_of(model: str, priority: str, opened_s: float) -> Waiter:
    """`opened_s` is on the monotonic clock."""
    return Waiter(model=model, priority=priority, waited_s=time.monotonic() - opened_s)
