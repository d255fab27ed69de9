"""Chooses the queue of a request.

One queue per model for now, from which any of its workers takes work. Placement by predicted seconds (a worker's
queued uncached tokens, its prefill rate and what it has cached of this conversation) lands here: it reads the same
`Fleet` and answers with `keys.worker_queue` of the chosen worker.
"""

from __future__ import annotations

from collections.abc import Set

from shared.keys import Names
from shared.registry import Fleet


def choose_queue(names: Names, fleet: Fleet, model: str) -> str:
    """Name of the RQ queue for a request of this model."""
    return names.queue(model)


def choose_other_queue(names: Names, fleet: Fleet, model: str, tried: Set[str]) -> str:
    """Name of the RQ queue of the least busy ready worker of this model that is not among `tried`; empty without
    one."""
    others = [worker for worker in fleet.ready_workers(model) if worker.worker not in tried]
    if not others:
        return ""
    return names.worker_queue(model, min(others, key=lambda worker: worker.in_flight / max(1, worker.capacity)).worker)
