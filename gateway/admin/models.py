"""Models: where each is, how far, and what it was found to be able to do."""

from __future__ import annotations

from typing import Any

from gateway.admin.merging import known
from gateway.admin.overview import render_record
from shared.registry import Fleet, WorkerLease


def render_models(fleet: Fleet) -> dict[str, Any]:
    records = {model.id for host in fleet.hosts for model in host.models}
    return {"models": {model: _model(fleet, model) for model in sorted(records | {w.model for w in fleet.workers})}}


def _model(fleet: Fleet, model: str) -> dict[str, Any]:
    offers = [(host.host, each) for host in fleet.hosts for each in host.models if each.id == model]
    workers = [worker for worker in fleet.workers if worker.model == model]
    return known(
        source=next((each.source for _, each in offers if each.source), None),
        made_at_s=fleet.made_at_s(model) or None,
        hosts={host: render_record(each) for host, each in offers},
        workers={worker.worker: _worker(worker) for worker in workers},
    )


def _worker(worker: WorkerLease) -> dict[str, Any]:
    return {
        "host": worker.host,
        "state": worker.state,
        "engine": worker.engine,
        "context_tokens": worker.context_tokens,
        "capacity": worker.capacity,
        "in_flight": worker.in_flight,
        "tools": worker.supports_tools,
        "reasoning": worker.supports_reasoning,
        "images": worker.supports_images,
        "kinds": list(worker.kinds),
        "template": dict(worker.template),
        "notes": list(worker.notes),
        "decode_tokens_per_s": round(worker.decode_tokens_per_s, 1),
        "prefill_tokens_per_s": round(worker.prefill_tokens_per_s),
    }
