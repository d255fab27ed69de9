"""What is kept of prompts: by worker, and by session what of its last prompt was cached and where it parted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.admin.merging import known
from shared.registry import Fleet, WorkerLease

_PREFIX: Final = "prefix_cache_"
_FIGURES: Final = ("input_tokens_total", "cached_tokens_total", "restored_tokens_total", "fetched_tokens")


def render_cache(fleet: Fleet, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`rows` are those of `RequestLog`."""
    return {"workers": {worker.worker: _worker(worker) for worker in fleet.workers}, "sessions": _sessions(rows)}


def _worker(worker: WorkerLease) -> dict[str, Any]:
    own = {name.removeprefix(_PREFIX): value for name, value in worker.metrics.items() if name.startswith(_PREFIX)}
    others: dict[str, float] = {name: worker.metrics[name] for name in _FIGURES if name in worker.metrics}
    parted = {
        name.removeprefix("computed_tokens_"): value
        for name, value in worker.metrics.items()
        if name.startswith("computed_tokens_")
    }
    return {
        "model": worker.model,
        "host": worker.host,
        "bytes": worker.cache_bytes,
        "bytes_per_token": round(worker.kept_bytes_per_token),
        "computed": parted,
        **own,
        **others,
    }


def _sessions(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    sessions: dict[str, dict[str, Any]] = {}
    for row in rows.values():
        if row.get("session") and row.get("model"):
            name = f"{row['session']} {row['model']}"
            sessions[name] = _after(sessions.get(name, {}), row)
    return sessions


def _after(session: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    prompt, cached = row.get("prompt", 0), row.get("cached", 0)
    return known(
        session=row["session"],
        model=row["model"],
        worker=row.get("worker"),
        requests=session.get("requests", 0) + 1,
        prompt=session.get("prompt", 0) + prompt,
        cached=session.get("cached", 0) + cached,
        last_s=row.get("at_s"),
        last_prompt=prompt,
        last_cached=cached,
        parted_in=row.get("parted_in"),
    )
