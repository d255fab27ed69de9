"""The metrics of workers and their hosts: one table of what they are called, what they mean and how they count.

Whoever shows them (a host for itself, a gateway for a host that Prometheus cannot reach) builds them from leases and
records with `HostCollector`, so that both say the same. Labels are the model, the host and `copy`, which numbers the
workers of one model on one host: a worker that starts again goes on with the series of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Final, Literal, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.registry import HostRecord, ModelState, RestartCause, WorkerLease, WorkerState

Kind = Literal["gauge", "counter"]
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A row of the tables: `metric` is the name without `wk_` (and without the `_total` of a counter), `label` one more
    label and its value."""

    metric: str
    help: str
    kind: Kind = "gauge"
    label: tuple[str, str] | None = None


def _gauge(metric: str, text: str) -> Figure:
    return Figure(metric=metric, help=text)


def _counter(metric: str, text: str) -> Figure:
    return Figure(metric=metric, help=text, kind="counter")


def _computed(cause: str) -> Figure:
    text = "Prompt tokens computed, by what made it necessary: new ones, or a change in a part of the prompt"
    return Figure(metric="computed_tokens", help=text, kind="counter", label=("cause", cause))


def _failed_fetch(reason: str) -> Figure:
    text = "Prefixes that were not fetched from another host, or not to their end, and were computed instead, by why"
    return Figure(metric="fetches_failed", help=text, kind="counter", label=("reason", reason))


FETCH_FAILURES: Final = ("gone", "refused", "missing", "other", "damaged", "slow", "full")

# By field of `WorkerLease`.
FIELDS: Final[Mapping[str, Figure]] = {
    "context_tokens": _gauge("context_tokens", "Context window that is offered, in tokens"),
    "capacity": _gauge("capacity", "Requests that run at once"),
    "in_flight": _gauge("in_flight", "Requests that are held"),
    "waiting_tokens": _gauge("waiting_tokens", "Uncached prompt tokens not prefilled yet"),
    "prefill_tokens_per_s": _gauge("prefill_tokens_per_second", "Prefill rate"),
    "decode_tokens_per_s": _gauge("decode_tokens_per_second", "Decode rate, all streams together"),
    "load_done": _gauge("load_done_ratio", "Part of the model that is loaded, 0 to 1"),
    "cache_bytes": _gauge("cache_bytes", "Prefix cache in memory"),
}

# By key of `WorkerLease.metrics`, which every engine and the runner around it fill.
FIGURES: Final[Mapping[str, Figure]] = {
    "running": _gauge("running", "Requests that are decoded"),
    "progress_age_seconds": _gauge(
        "progress_age_seconds", "Seconds that the engine has been at work without a sign of life"
    ),
    "waiting": _gauge("waiting", "Requests whose prefill has not ended"),
    "requests_finished_total": _counter("requests_finished", "Answers that came to their end"),
    "requests_failed_total": _counter("requests_failed", "Requests that ended with an error"),
    "requests_cancelled_total": _counter("requests_cancelled", "Requests that were cancelled"),
    "requests_returned_total": _counter("requests_returned", "Requests that were given back before they were begun"),
    "input_tokens_total": _counter("input_tokens", "Tokens of prompts"),
    "cached_tokens_total": _counter("cached_tokens", "Tokens of prompts that were not computed again"),
    "restored_tokens_total": _counter("restored_tokens", "Tokens of prompts that were read from disk"),
    "output_tokens_total": _counter("output_tokens", "Tokens generated"),
    "resumed_tokens_total": _counter("resumed_tokens", "Tokens of prompts whose answer another worker had begun"),
    **{f"computed_tokens_{cause}": _computed(cause) for cause in ("new", "tools", "system", "message", "prompt")},
    "prefix_cache_hits": _counter("prefix_cache_hits", "Prompts of which a part was in the prefix cache"),
    "prefix_cache_misses": _counter("prefix_cache_misses", "Prompts of which no part was in the prefix cache"),
    "prefix_cache_hit_tokens": _counter("prefix_cache_hit_tokens", "Tokens found in the prefix cache"),
    "prefix_cache_restored_tokens": _counter("prefix_cache_restored_tokens", "Of these, read from disk"),
    "prefix_cache_evictions": _counter("prefix_cache_evictions", "Stretches that were dropped to make room"),
    "prefix_cache_unkept_tokens": _counter(
        "prefix_cache_unkept_tokens", "Tokens not kept, because the budget is too small for them"
    ),
    "prefix_cache_max_bytes": _gauge("prefix_cache_max_bytes", "Memory that the prefix cache may use"),
    "prefix_cache_disk_bytes": _gauge("prefix_cache_disk_bytes", "Prefix cache on disk"),
    "prefix_cache_arrays": _gauge("prefix_cache_arrays", "Buffers of the device that the prefix cache takes"),
    "fetched_tokens": _counter("fetched_tokens", "Tokens of prefixes that came from another host"),
    "fetched_bytes": _counter("fetched_bytes", "Bytes of prefixes that came from another host"),
    **{f"fetches_failed_{reason}": _failed_fetch(reason) for reason in FETCH_FAILURES},
    "memory_bytes": _gauge("memory_bytes", "Memory of the device in use"),
    "memory_limit_bytes": _gauge("memory_limit_bytes", "Memory of the device that may be used now"),
    "memory_neighbour_bytes": _gauge("memory_neighbour_bytes", "Memory that the host's other workers hold"),
    "interruptions": _counter("interruptions", "Answers interrupted for want of memory"),
    "decode_groups": _gauge("decode_groups", "Batches under way"),
    "decode_slack_ms": _gauge("decode_slack_ms", "Milliseconds of a step in which it waited for the device, smoothed"),
    "upstream_up": _gauge("upstream_up", "1 while the server behind the model answers, 0 while it does not"),
    "server_starts": _counter("server_starts", "Times that the server behind the model was started"),
    "draft_passes": _counter("draft_passes", "Passes that verified drafts"),
    "drafted_tokens": _counter("drafted_tokens", "Tokens that were drafted"),
    "accepted_draft_tokens": _counter("accepted_draft_tokens", "Drafted tokens that were right"),
}

# By key of `HostRecord.figures`; what a machine does not tell is left out.
HOST_FIGURES: Final[Mapping[str, Figure]] = {
    "memory_total_bytes": _gauge("memory_total_bytes", "Memory of the machine"),
    "memory_available_bytes": _gauge("memory_available_bytes", "Memory that programs can still get"),
    "memory_pressure": _gauge("memory_pressure", "macOS's own level: 1 normal, 2 warning, 4 critical"),
    "swap_used_bytes": _gauge("swap_used_bytes", "Memory that was written to disk for want of room"),
    "thermal_state": _gauge("thermal_state", "macOS's own state: 0 nominal, 1 fair, 2 serious, 3 critical"),
    "power_watts": _gauge("power_watts", "Power that the chip draws, where macmon is installed"),
    "gpu_used_ratio": _gauge("gpu_used_ratio", "Part of the time that the GPU is at work, where macmon is installed"),
    "disk_free_bytes": _gauge("disk_free_bytes", "Free on the disk of caches and logs"),
    "disk_total_bytes": _gauge("disk_total_bytes", "Size of the disk of caches and logs"),
    "clock_offset_seconds": _gauge("clock_offset_seconds", "Seconds that its clock is ahead of Redis's"),
    "on_battery": _gauge("on_battery", "1 while the machine runs on its battery"),
}

WORKER_STATES: Final = get_args(WorkerState)
MODEL_STATES: Final = get_args(ModelState)
_WORKER: Final = ("model", "host", "copy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Whose figures are shown."""

    workers: Sequence[WorkerLease] = ()
    hosts: Sequence[HostRecord] = ()


class HostCollector(Collector):
    """`wk_*` and `host_*` of what `shown` gives at the moment of the scrape."""

    def __init__(self, shown: Callable[[], Shown]) -> None:
        self._shown = shown
        assert {each.name for each in fields(WorkerLease)} >= set(FIELDS)

    def collect(self) -> Iterable[Metric]:
        shown = self._shown()
        copies = list(_copies(shown.workers))
        yield _states("wk_state", "Workers, 1 for the state that each is in", _WORKER, WORKER_STATES, _held(copies))
        yield from _families(copies)
        yield _states(
            "host_model_state", "Models, 1 for their state", ("model", "host"), MODEL_STATES, _of(shown.hosts)
        )
        yield _restarts(shown.hosts)
        yield from _host_families(shown.hosts)


def _copies(workers: Sequence[WorkerLease]) -> Iterator[tuple[Labels, WorkerLease]]:
    def whose(worker: WorkerLease) -> tuple[str, str]:
        return worker.model, worker.host

    ordered = sorted(workers, key=lambda worker: (*whose(worker), worker.worker))
    for (model, host), same in groupby(ordered, key=whose):
        for copy, worker in enumerate(same):
            yield (model, host, str(copy)), worker


def _held(copies: Iterable[tuple[Labels, WorkerLease]]) -> Iterator[tuple[Labels, str]]:
    return ((labels, worker.state) for labels, worker in copies)


def _of(hosts: Iterable[HostRecord]) -> Iterator[tuple[Labels, str]]:
    return (((model.id, host.host), model.state) for host in hosts for model in host.models)


def _states(
    name: str, text: str, labels: Labels, states: Sequence[str], rows: Iterable[tuple[Labels, str]]
) -> GaugeMetricFamily:
    """One-hot, with every state there: what is 0 can be asked for before it happened."""
    family = GaugeMetricFamily(name, text, labels=[*labels, "state"])
    for values, held in rows:
        for state in states:
            family.add_metric([*values, state], float(state == held))
    return family


def _families(copies: Sequence[tuple[Labels, WorkerLease]]) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for labels, worker in copies:
        for name, figure in FIELDS.items():
            _add(families, figure, labels, float(getattr(worker, name)))
        for name, value in worker.metrics.items():
            # An engine of another version may say what this table does not know.
            _add(families, FIGURES.get(name) or _gauge(name, "Reported by the engine"), labels, value)
    yield from families.values()


def _host_families(hosts: Sequence[HostRecord]) -> Iterator[Metric]:
    up = GaugeMetricFamily("host_up", "Hosts that are alive", labels=["host"])
    for host in hosts:
        up.add_metric([host.host], 1)
    yield up
    for name, figure in HOST_FIGURES.items():
        family = GaugeMetricFamily(f"host_{figure.metric}", figure.help, labels=["host"])
        for host in hosts:
            if name in host.figures:
                family.add_metric([host.host], host.figures[name])
        yield family


def _restarts(hosts: Sequence[HostRecord]) -> Metric:
    family = CounterMetricFamily(
        "wk_restarts", "Workers that died and were started again, by cause", labels=["model", "host", "cause"]
    )
    for host in hosts:
        for model in host.models:
            for cause in get_args(RestartCause):
                family.add_metric([model.id, host.host, cause], model.restarts.get(cause, 0))
    return family


def _add(families: dict[str, Metric], figure: Figure, labels: Labels, value: float) -> None:
    name = f"wk_{figure.metric}"
    if name not in families:
        family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
        more = [] if figure.label is None else [figure.label[0]]
        families[name] = family(name, figure.help, labels=[*_WORKER, *more])
    families[name].add_metric([*labels, *([] if figure.label is None else [figure.label[1]])], value)  # type: ignore[attr-defined]


def metric_names() -> frozenset[str]:
    """Every name that is shown, for those that are documented and asked for."""
    rows = [*FIELDS.values(), *FIGURES.values()]
    named = (f"wk_{row.metric}_total" if row.kind == "counter" else f"wk_{row.metric}" for row in rows)
    of_hosts = (f"host_{row.metric}" for row in HOST_FIGURES.values())
    return frozenset((*named, *of_hosts, "wk_state", "wk_restarts_total", "host_up", "host_model_state"))
