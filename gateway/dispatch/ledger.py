"""What this gateway has put on workers' lists and their leases do not show yet."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from shared.places import Counts
from shared.registry import WorkerLease
from shared.request import PRIORITIES, Priority


class Ledger:
    """Jobs put on a worker's lists are counted; a lease says up to which number it has seen them."""

    def __init__(self) -> None:
        self._placed: dict[str, deque[tuple[int, Priority]]] = {}

    def note(self, worker: str, number: int, priority: Priority) -> None:
        self._placed.setdefault(worker, deque()).append((number, priority))

    def since(self, workers: Iterable[WorkerLease]) -> dict[str, Counts]:
        """By worker and class. What is shown by now is forgotten."""
        found = {}
        for worker in workers:
            jobs = self._placed.get(worker.worker)
            if jobs is not None and _after(jobs, worker.placed):
                found[worker.worker] = _by_class(jobs)
        return found

    def forget_all_but(self, workers: Iterable[WorkerLease]) -> None:
        """Who has no lease any more holds nothing."""
        alive = {worker.worker for worker in workers}
        self._placed = {name: jobs for name, jobs in self._placed.items() if name in alive and jobs}


def _after(jobs: deque[tuple[int, Priority]], number: int) -> deque[tuple[int, Priority]]:
    while jobs and jobs[0][0] <= number:
        jobs.popleft()
    return jobs


def _by_class(jobs: Iterable[tuple[int, Priority]]) -> Counts:
    counted = Counter(priority for _, priority in jobs)
    return tuple(counted[priority] for priority in PRIORITIES)
