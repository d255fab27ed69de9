"""Ends of jobs, written into RQ's records now, or as soon as Redis is back."""

from __future__ import annotations

from rq.worker import BaseWorker, WorkerStatus

from worker.rq import records
from worker.rq.patience import Patience
from worker.rq.records import Slot
from worker.serving.reports import Ended


class Outcomes:
    """In the order in which the jobs ended."""

    def __init__(self, worker: BaseWorker, patience: Patience) -> None:
        self._worker = worker
        self._patience = patience
        self._unrecorded: list[tuple[Slot, Ended]] = []

    def add(self, slot: Slot, ended: Ended) -> None:
        self._unrecorded.append((slot, ended))

    def record(self, *, busy_with: str | None, resting: WorkerStatus) -> None:
        """All that are left. `busy_with` is a job in flight; without one the worker's state becomes `resting`."""
        if not self._unrecorded:
            return
        with self._patience("record ended jobs"):
            while self._unrecorded:
                slot, ended = self._unrecorded[0]
                records.end(self._worker, slot, ended, busy_with=busy_with, resting=resting)
                self._unrecorded.pop(0)
