"""Prometheus metrics of one gateway process, in a registry of its own.

Label `model` is always a resolved model id, never a client's text. Run several gateways on several ports and let
Prometheus add them up; there is no multi-process mode. What hosts and workers say of themselves is no part of it: it
would be counted once for each gateway. It has pages of its own, which `HostPages` makes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.outcome import Outcome
from gateway.keys.spent import Spent
from gateway.waiting_metrics import PlacementMetrics, reason_word
from shared.errors import GatewayError, InvalidRequestError
from shared.events import Event, Failed, Finished, Progress, Started, Usage, known, total_usage
from shared.process_metrics import ProcessCollector
from shared.request import PRIORITIES
from shared.worker_metrics import HostCollector, Shown

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Prefilling 100,000 tokens on a laptop takes minutes, so the scales end far above the usual ten seconds.
_WAIT_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 640, 1280, 2560)
_E2E_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 240, 480, 960, 1920, 3840, 7680)
_TOKEN_BUCKETS = tuple(float(2**power) for power in range(0, 21, 2))
_GAP_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
_OVERHEAD_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_LAG_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_HOT = 0.9  # share of the prompt that was cached
# By which every model's answers are counted from the start.
_OUTCOMES = (
    "ok",
    "cancelled",
    "client_error",
    "worker_lost",
    "broker_unavailable",
    "internal",
    "deadline_exceeded",
    "overloaded",
    "model_unavailable",
)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Gaps:
    """How long it took from one piece of an answer to the next, as a histogram's counts. There is a gap for every
    token: counting one costs a third of a microsecond, where an observation of the Prometheus client takes two."""

    __slots__ = ("counts", "last_s", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_GAP_BUCKETS) + 1)
        self.total_s = 0.0
        self.last_s = 0.0

    def note(self, now_s: float) -> None:
        gap_s = now_s - self.last_s
        self.last_s = now_s
        self.total_s += gap_s
        self.counts[bisect_left(_GAP_BUCKETS, gap_s)] += 1

    def add(self, other: Gaps) -> None:
        self.total_s += other.total_s
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]


class RequestRecord:
    """What one request has to report in the end. Fed with its events as they pass."""

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.gaps = Gaps()
        self.stages: list[tuple[str, float]] = []
        self.ran_s: float | None = None
        self.first_token_s: float | None = None
        self.usage = Usage()
        self.spent = Spent()
        self._ended: list[Usage] = []  # of each choice
        self.warnings: tuple[str, ...] = ()

    def note(self, events: Sequence[Event]) -> None:
        """What arrived at one moment."""
        if self.first_token_s is None:
            self._note_beginning(events)
        elif events:
            self.gaps.note(time.monotonic())
        self.spent.note(events)
        for event in events:
            if isinstance(event, Finished):
                self._ended.append(event.usage)
                self.usage = total_usage(self._ended)

    @property
    def charged(self) -> Usage:
        """What its key pays for, however it ended."""
        return self.spent.usage(self.usage, ended=len(self._ended))

    def note_stage(self, stage: str, since_s: float) -> float:
        """A stage of the way to the worker that began at `since_s` is over; the moment at which it was."""
        now_s = time.monotonic()
        self.stages.append((stage, now_s - since_s))
        return now_s

    def _note_beginning(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Progress(phase=phase, warnings=warnings):
                    self.warnings += warnings
                    if self.ran_s is None and phase == "prefill":
                        self.ran_s = time.monotonic()
                case Started(usage=usage):
                    self.usage = usage
                    self.ran_s = self.ran_s or time.monotonic()
                case Finished() | Failed():
                    pass
                case _ if self.first_token_s is None:
                    self.first_token_s = self.gaps.last_s = time.monotonic()

    @property
    def cache_class(self) -> str:
        """How much of the prompt was already computed: hot, warm or cold."""
        if not self.usage.cached_tokens:
            return "cold"
        return "hot" if self.usage.cached_tokens >= _HOT * known(self.usage.input_tokens) else "warm"


class Metrics:
    """Everything that `GET /metrics` shows."""

    def __init__(self, fleet: FleetWatcher) -> None:
        self._fleet = fleet
        self._begun: set[str] = set()
        self.routes: tuple[str, ...] = ()  # on which models answer
        self.registry = registry = CollectorRegistry()
        self._key_tokens = Counter(
            "gw_key_tokens",
            "Tokens of each key's requests, by its name; empty for the owner's",
            ("key", "kind"),
            registry=registry,
        )
        self._requests = Counter("gw_requests", "Answers", ("route", "model", "outcome"), registry=registry)
        self._ttft = Histogram(
            "gw_ttft_seconds",
            "From the request's arrival to its first token",
            ("model", "class", "cache"),
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "gw_queue_wait_seconds",
            "From the request's arrival to the start of its prefill",
            ("model", "class"),
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._e2e = Histogram("gw_e2e_seconds", "Whole answers", ("model",), buckets=_E2E_BUCKETS, registry=registry)
        self._tokens = {
            kind: Histogram(
                f"gw_{kind}_tokens", f"{kind} tokens per answer", ("model",), buckets=_TOKEN_BUCKETS, registry=registry
            )
            for kind in ("prompt", "cached", "output")
        }
        self.inflight = Gauge("gw_inflight", "Requests under way", registry=registry)
        self._register_ways(registry)
        self._register_streams(registry, fleet)
        self._register_process(registry)
        self._begin_at_zero()

    def _register_ways(self, registry: CollectorRegistry) -> None:
        """What becomes of requests on their way to a worker."""
        self._rejections = Counter(
            "gw_admission_rejections", "Requests refused before they waited", ("reason",), registry=registry
        )
        self._cancellations = Counter("gw_cancels", "Requests stopped by their clients", ("stage",), registry=registry)
        self._attachments = Counter(
            "gw_attached",
            "Requests that were given the answer to the same request under way",
            ("model",),
            registry=registry,
        )
        self._returned = Counter(
            "gw_returned", "Requests that a worker gave back before it had begun them", ("model",), registry=registry
        )
        self._redispatches = Counter(
            "gw_redispatches", "Requests given to another worker after one was lost", ("model",), registry=registry
        )
        self._moves = Counter(
            "gw_moves", "Requests that went to another worker's list while they waited", ("model",), registry=registry
        )
        self._resumes = Counter(
            "gw_resumes", "Answers that another worker went on with in their middle", ("model",), registry=registry
        )
        self.placements = PlacementMetrics(registry)

    def _begin_at_zero(self) -> None:
        """A counter whose first value is 1 never shows an increase."""
        for outcome in ("repaired", "lost"):
            self._gaps.labels(outcome)
        for reason in ("queue_full", "wait_too_long", "bytes_full", "redis_full"):
            self._rejections.labels(reason)
        for stage in ("queued", "prefill", "decode"):
            self._cancellations.labels(stage)

    def _begin_models(self) -> None:
        """The same for each model as soon as somebody serves it."""
        for model in self._fleet.snapshot.model_ids():
            if model in self._begun:
                continue
            self._begun.add(model)
            for counter in (self._redispatches, self._resumes, self._returned, self._moves, self._attachments):
                counter.labels(model)
            for route in self.routes:
                for outcome in _OUTCOMES:
                    self._requests.labels(route, model, outcome)

    def _register_process(self, registry: CollectorRegistry) -> None:
        """What the process costs, and what could hold up every stream of it."""
        info = Info("gw_build", "The release that runs", registry=registry)
        info.info({"version": version("mlx-gateway")})
        self._loop_lag = Histogram(
            "gw_loop_lag_seconds", "How late the event loop came", buckets=_LAG_BUCKETS, registry=registry
        )
        self._round_trip = Histogram(
            "gw_redis_round_trip_seconds",
            "How long Redis took to tell who is alive",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self._redis_memory = Gauge("gw_redis_memory_bytes", "Memory that Redis uses", registry=registry)
        self._redis_limit = Gauge(
            "gw_redis_memory_limit_bytes", "Memory that Redis may use, 0 where it has no limit", registry=registry
        )
        registry.register(ProcessCollector())

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def redis_round_trip(self, seconds: float) -> None:
        self._round_trip.observe(seconds)

    def _register_streams(self, registry: CollectorRegistry, fleet: FleetWatcher) -> None:
        """What is counted between the gateway and its workers."""
        self._gaps = Counter("gw_stream_gaps", "Holes in workers' frames", ("outcome",), registry=registry)
        self._overhead = Histogram(
            "gw_overhead_seconds",
            "What the gateway takes before a request is queued: parse, route, enqueue",
            ("stage",),
            buckets=_OVERHEAD_BUCKETS,
            registry=registry,
        )
        self._refused_frames = Counter(
            "gw_frames_refused", "Frames that were not what their host may say", registry=registry
        )
        self._gaps_of: dict[str, Gaps] = {}
        registry.register(_GapCollector(self._gaps_of))
        registry.register(_FleetCollector(fleet))

    def gap(self, was_repaired: bool) -> None:
        self._gaps.labels("repaired" if was_repaired else "lost").inc()

    def refused_frame(self) -> None:
        self._refused_frames.inc()

    def rejection(self, error: GatewayError) -> None:
        self._rejections.labels(str(error.details.get("reason", error.code))).inc()

    def cancellation(self, stage: str) -> None:
        self._cancellations.labels(stage).inc()

    def attachment(self, model: str) -> None:
        self._attachments.labels(model).inc()

    def redispatch(self, model: str) -> None:
        self._redispatches.labels(model).inc()

    def returned(self, model: str) -> None:
        self._returned.labels(model).inc()

    def move(self, model: str) -> None:
        self._moves.labels(model).inc()

    def resume(self, model: str) -> None:
        self._resumes.labels(model).inc()

    def placed(self, model: str, host: str, reason: str, attempt: int) -> None:
        self.placements.placed(model, host, reason_word(reason, attempt=attempt))

    def came(self, model: str, priority: str, outcome: Outcome) -> None:
        self.placements.came(model, priority, outcome)

    def redis_memory(self, used_bytes: int, max_bytes: int) -> None:
        self._redis_memory.set(used_bytes)
        self._redis_limit.set(max_bytes)

    def answer(self, route: str, model: str, outcome: str) -> None:
        self._requests.labels(route, model, outcome).inc()

    def began(self, model: str, priority: str, record: RequestRecord) -> None:
        """How a request began, as far as it came: also one whose client left, mostly because it was slow."""
        if record.ran_s is not None:
            self._queue_wait.labels(model, priority).observe(record.ran_s - record.started_s)
        if record.first_token_s is not None:
            self._ttft.labels(model, priority, record.cache_class).observe(record.first_token_s - record.started_s)
        for stage, seconds in record.stages:
            self._overhead.labels(stage).observe(seconds)

    def finished(self, model: str, record: RequestRecord) -> None:
        """One whole answer: its times and tokens."""
        self._e2e.labels(model).observe(time.monotonic() - record.started_s)
        self._gaps_of.setdefault(model, Gaps()).add(record.gaps)
        usage = record.usage
        counts = {"prompt": usage.input_tokens, "cached": usage.cached_tokens, "output": usage.output_tokens}
        for name, tokens in counts.items():
            if tokens is not None:
                self._tokens[name].labels(model).observe(tokens)

    def used(self, key: str, usage: Usage) -> None:
        """By a request of a key, which is empty for the owner's."""
        counts = {"prompt": usage.input_tokens, "cached": usage.cached_tokens, "output": usage.output_tokens}
        for kind, count in counts.items():
            self._key_tokens.labels(key, kind).inc(known(count))

    def render(self) -> bytes:
        self._begin_models()
        return generate_latest(self.registry)


def outcome_of(error: GatewayError) -> str:
    """The word for an error in `gw_requests_total`."""
    if isinstance(error, InvalidRequestError):
        return "client_error"
    return error.code


class _GapCollector(Collector):
    """`gw_inter_token_seconds` out of what the requests counted."""

    def __init__(self, gaps_of: Mapping[str, Gaps]) -> None:
        self._gaps_of = gaps_of

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(
            "gw_inter_token_seconds", "From one piece of an answer to the next", labels=["model"]
        )
        bounds = [*map(str, _GAP_BUCKETS), "+Inf"]
        for model, gaps in self._gaps_of.items():
            buckets = list(zip(bounds, accumulate(gaps.counts), strict=True))
            family.add_metric([model], buckets, sum_value=gaps.total_s)
        yield family


class _FleetCollector(Collector):
    """What the last fleet snapshot says of the queues."""

    def __init__(self, fleet: FleetWatcher) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        depth = GaugeMetricFamily("gw_queue_depth", "Jobs that no worker has claimed", labels=["model", "class"])
        for model, counts in self._fleet.depths.items():
            for priority, count in zip(PRIORITIES, counts, strict=True):
                depth.add_metric([model, priority], count)
        yield depth
        yield GaugeMetricFamily("gw_redis_up", "Whether Redis was reached", value=float(self._fleet.is_connected))


class HostPages:
    """What hosts and their workers say of themselves, as this gateway last heard it: a page for each host, and one of
    all for people."""

    def __init__(self, fleet: FleetWatcher) -> None:
        self._fleet = fleet

    def render(self, host: str = "") -> bytes:
        """Of one host; of all where it is empty."""
        registry = CollectorRegistry()
        registry.register(HostCollector(lambda: self._shown(host)))
        return generate_latest(registry)

    def _shown(self, host: str) -> Shown:
        fleet = self._fleet.snapshot
        return Shown(
            workers=tuple(each for each in fleet.workers if host in ("", each.host)),
            hosts=tuple(each for each in fleet.hosts if host in ("", each.host)),
        )
