"""Chooses the queue of a request.

One queue per model for now, from which any of its workers takes work. Placement by predicted seconds (a worker's
queued uncached tokens, its prefill rate and what it has cached of this conversation) lands here: it reads the same
`Fleet` and answers with `keys.worker_queue` of the chosen worker.
"""

from __future__ import annotations

from shared import keys
from shared.registry import Fleet


def choose_queue(fleet: Fleet, model: str) -> str:
    """Name of the RQ queue for a request of this model."""
    return keys.queue(model)
