"""Leases and host records for tests that decide on a fleet."""

from __future__ import annotations

from typing import Any

from shared.registry import Fleet, HostRecord, ModelRecord, WorkerLease
from shared.wire import READER


def lease(model: str, **fields: Any) -> WorkerLease:
    defaults: dict[str, Any] = {
        "worker": f"host.{model}.e1",
        "host": "host",
        "pid": 1,
        "epoch": "e1",
        "state": "ready",
        "capacity": 4,
        "reader": READER,
    }
    return WorkerLease(model=model, **defaults | fields)


def host(*models: ModelRecord) -> HostRecord:
    return HostRecord(host="host", pid=1, models=models, reader=READER)


def fleet_of(*models: str) -> Fleet:
    """One ready worker for each model."""
    return Fleet(workers=tuple(lease(model) for model in models))
