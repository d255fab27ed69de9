"""The first screen: hosts, workers, and what runs and waits at this gateway."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.admin.merging import known
from gateway.dispatch.dispatch import Dispatch
from shared.pieces import session_digest
from shared.registry import Fleet, HostRecord, ModelRecord, WorkerLease
from shared.request import PRIORITIES

_GRAIN_BYTES: Final = 32 * 1024 * 1024  # less is no news
_NAME: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """One moment on both clocks: Unix time, and the monotonic one."""

    unix_s: float
    monotonic_s: float

    @classmethod
    def now(cls) -> Clock:
        return cls(unix_s=time.time(), monotonic_s=time.monotonic())

    def unix_of(self, monotonic_s: float) -> float:
        return self.unix_s + monotonic_s - self.monotonic_s


def render_overview(
    fleet: Fleet, dispatches: Iterable[Dispatch], *, clock: Clock, is_connected: bool, quarantined: int = 0
) -> dict[str, Any]:
    living = [each for each in dispatches if not each.has_ended]
    waiting = sorted((each for each in living if each.shown_stage == "queued"), key=_turn)
    return {
        "redis": is_connected,
        "hosts": {host.host: render_host(host) for host in fleet.hosts},
        "workers": {worker.worker: render_worker(worker) for worker in fleet.workers},
        "running": {each.request_id: _running(each) for each in living if each.shown_stage != "queued"},
        "waiting": {each.request_id: _waiting(each, place, clock) for place, each in enumerate(waiting, 1)},
        "faults": {fault: list(names) for fault, names in fleet.faults().items()},
        "strangers": {each.name: f"{each.kind}: {each.reason}" for each in fleet.strangers},
        "quarantined": quarantined,
    }


def render_host(host: HostRecord) -> dict[str, Any]:
    figures = {name: _grained(name, value) for name, value in host.figures.items()}
    models = {model.id: render_record(model) for model in host.models}
    return {"figures": figures, "models": models, "draining": host.is_draining, "since_s": round(host.since_s)}


def _grained(name: str, value: float) -> float:
    return round(value / _GRAIN_BYTES) * _GRAIN_BYTES if name.endswith("_bytes") else round(value, 2)


def render_record(model: ModelRecord) -> dict[str, Any]:
    return known(
        state=model.state,
        load_done=round(model.load_done, 2) if model.state == "loading" else None,
        reason=model.reason or None,
        needed_bytes=model.needed_bytes or None,
        limit_bytes=model.limit_bytes or None,
        pinned=model.is_pinned or None,
        restarts=sum(model.restarts.values()) or None,
        load_s=round(model.load_s, 1) or None,
    )


def render_worker(worker: WorkerLease) -> dict[str, Any]:
    """Rates of one that does nothing are those of the past: 0."""
    running, reading = int(worker.metrics.get("running", 0)), int(worker.metrics.get("waiting", 0))
    return {
        "model": worker.model,
        "host": worker.host,
        "state": worker.state,
        "load_done": round(worker.load_done, 2),
        "in_flight": worker.in_flight,
        "capacity": worker.capacity,
        "writing": running,
        "reading": reading,
        "decode_tokens_per_s": round(worker.decode_tokens_per_s, 1) if running else 0,
        "prefill_tokens_per_s": round(worker.prefill_tokens_per_s) if reading else 0,
        "waiting_tokens": worker.waiting_tokens if running or reading else 0,
        "cache_bytes": worker.cache_bytes,
        "memory_bytes": int(_grained("_bytes", worker.metrics.get("memory_bytes", 0))),
        "notes": list(worker.notes),
    }


def _shared(dispatch: Dispatch) -> dict[str, Any]:
    request, attempt = dispatch.request, dispatch.attempt
    return {
        "model": dispatch.model[:_NAME],
        "class": request.priority,
        "kind": dispatch.kind.name,
        "session": session_digest(request.session),
        "worker": attempt.worker or attempt.place.worker,
        "since_s": dispatch.created_s,
        "attempt": attempt.number,
    }


def _running(dispatch: Dispatch) -> dict[str, Any]:
    """`done` of `total` are tokens of the prompt while it is read, `said` those of the answer."""
    attempt, usage, prospect = dispatch.attempt, dispatch.usage, dispatch.attempt.place.prospect
    told: dict[str, Any] = _shared(dispatch) | {"stage": dispatch.shown_stage, "said": dispatch.attempt.said_tokens}
    if attempt.prompt_tokens and dispatch.shown_stage == "prefill":
        told |= {"done": attempt.prefilled_tokens, "total": attempt.prompt_tokens}
    if usage is not None:
        told |= known(prompt=usage.input_tokens, cached=usage.cached_tokens)
    elif prospect is not None:
        told |= {"prompt": prospect.prompt_tokens, "cached": prospect.cached_tokens}
    return told


def _waiting(dispatch: Dispatch, place: int, clock: Clock) -> dict[str, Any]:
    """`starts_s` is when it is expected to begin (Unix time), `until_s` when it must have."""
    attempt = dispatch.attempt
    wait_s = attempt.place.wait_s
    told: dict[str, Any] = _shared(dispatch) | {"place": place, "why": attempt.place.reason or "no worker holds it yet"}
    told["until_s"] = round(dispatch.deadline_s)
    return told | known(starts_s=None if wait_s is None else round(clock.unix_of(attempt.put_s) + wait_s))


def _turn(dispatch: Dispatch) -> tuple[str, int, float]:
    return dispatch.model, PRIORITIES.index(dispatch.request.priority), dispatch.attempt.put_s


def activity(dispatches: Mapping[str, Dispatch]) -> tuple[object, ...]:
    """What of the running requests a console shows, cheap to compare."""
    return tuple(
        (
            name,
            each.shown_stage,
            each.attempt.said_tokens,
            each.attempt.prefilled_tokens,
            each.attempt.worker,
            each.has_ended,
        )
        for name, each in dispatches.items()
    )
