"""Everything that runs, as plain data: what `GET /status` says, and what `mlx-gateway status` draws.

Sizes are bytes, rates tokens a second, shares 0 to 1. A rate is that of the present: of who does nothing it is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from shared.registry import Fleet, HostRecord, ModelRecord, WorkerLease

_NOTHING: Final[Mapping[str, Mapping[str, Any]]] = {}
_MOST_RUNNING: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A request under way. `prefill_done` is the share of its prompt that is read, None while that is not known."""

    id: str
    model: str
    worker: str
    priority: str
    stage: str
    prefill_done: float | None
    prompt_tokens: int
    output_tokens: int
    age_s: float


def render_overview(
    fleet: Fleet, *, quarantined: Mapping[str, Mapping[str, Any]] = _NOTHING, running: Iterable[Running] = ()
) -> dict[str, Any]:
    """`quarantined`: by digest, the shape of what is not run again. Of very many requests the first are told."""
    return {
        "gateways": [{"name": each.gateway, "pid": each.pid} for each in fleet.gateways],
        "hosts": [_host(host) for host in fleet.hosts],
        "workers": [_worker(each) for each in fleet.workers],
        "running": list(_running(running)),
        "faults": [{"fault": fault, "told_by": names} for fault, names in fleet.faults().items()],
        "quarantined": [{"digest": digest, **shape} for digest, shape in quarantined.items()],
        "strangers": [{"kind": each.kind, "name": each.name, "reason": each.reason} for each in fleet.strangers],
    }


def _host(host: HostRecord) -> dict[str, Any]:
    leaving = {"draining": True} if host.is_draining else {}
    models = [_model(model) for model in host.models]
    return {"name": host.host, "pid": host.pid, **leaving, "figures": dict(host.figures), "models": models}


def _model(model: ModelRecord) -> dict[str, Any]:
    """What is known of it: zeros and empty texts are left out."""
    told = {
        "load_done": model.load_done if model.state == "loading" else 0,
        "pinned": model.is_pinned,
        "reason": model.reason,
        "needed_bytes": model.needed_bytes,
        "limit_bytes": model.limit_bytes,
    }
    rendered = {"id": model.id, "state": model.state, **{name: value for name, value in told.items() if value}}
    return rendered | ({"free_bytes": model.free_bytes} if model.state == "no_memory" else {})


def _worker(worker: WorkerLease) -> dict[str, Any]:
    running, waiting = (int(worker.metrics.get(name, 0)) for name in ("running", "waiting"))
    return {
        "name": worker.worker,
        "host": worker.host,
        "model": worker.model,
        "state": worker.state,
        "in_flight": worker.in_flight,
        "capacity": worker.capacity,
        "running": running,
        "waiting": waiting,
        "waiting_tokens": worker.waiting_tokens if running or waiting else 0,
        "decode_tokens_per_s": round(worker.decode_tokens_per_s, 1) if running else 0.0,
        "prefill_tokens_per_s": round(worker.prefill_tokens_per_s, 1) if waiting else 0.0,
        "context_tokens": worker.context_tokens,
        "memory_bytes": int(worker.metrics.get("memory_bytes", 0)),
        "cache_bytes": worker.cache_bytes,
    }


def _running(running: Iterable[Running]) -> Iterator[dict[str, Any]]:
    for each in islice(running, _MOST_RUNNING):
        done = {} if each.prefill_done is None else {"prefill_done": round(each.prefill_done, 3)}
        yield {
            "id": each.id,
            "model": each.model,
            "worker": each.worker,
            "class": each.priority,
            "stage": each.stage,
            **done,
            "prompt_tokens": each.prompt_tokens,
            "output_tokens": each.output_tokens,
            "age_s": round(each.age_s, 1),
        }
