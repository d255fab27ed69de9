"""What this gateway has put on workers' lists and their leases do not show yet."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from shared.places import NONE, Counts
from shared.registry import WorkerLease
from shared.request import PRIORITIES
from shared.work import LANES_BESIDE


class Ledger:
    """Jobs put on a worker's lists are counted; a lease says up to which number it has seen them."""

    def __init__(self) -> None:
        self._placed: dict[str, deque[tuple[int, str]]] = {}  # worker -> (number, lane)

    def note(self, worker: str, number: int, lane: str) -> None:
        self._placed.setdefault(worker, deque()).append((number, lane))

    def since(self, workers: Iterable[WorkerLease]) -> dict[str, Counts]:
        """By worker and class. Nothing is forgotten here: who asks with a younger count may ask with an older lease
        afterwards."""
        return {name: tuple(lanes[p] for p in PRIORITIES) for name, lanes in self._since(workers)}

    def since_beside(self, workers: Iterable[WorkerLease]) -> dict[str, dict[str, int]]:
        """By worker and lane, of the kinds of work that have their own."""
        return {name: {lane: lanes[lane] for lane in LANES_BESIDE} for name, lanes in self._since(workers)}

    def _since(self, workers: Iterable[WorkerLease]) -> Iterator[tuple[str, Counter[str]]]:
        for worker in workers:
            lanes = [lane for number, lane in self._placed.get(worker.worker, ()) if number > worker.placed]
            if lanes:
                yield worker.worker, Counter(lanes)

    def up_to(self, worker: WorkerLease, counted: WorkerLease) -> WorkerLease:
        """The worker with what was `counted` on its lists just now. What its lease, or we, had there and is there no
        longer was claimed, as far as anybody knows, and holds a place."""
        since = self.since([worker]).get(worker.worker, NONE)
        rows = zip(worker.held or NONE, worker.queued or NONE, since, counted.queued, strict=True)
        held = tuple(held + max(0, queued + new - left) for held, queued, new, left in rows)
        return replace(counted, held=held)

    def forget(self, workers: Iterable[WorkerLease]) -> None:
        """What these leases show, and who has none any more."""
        seen = {worker.worker: worker.placed for worker in workers}
        self._placed = {
            name: left for name, jobs in self._placed.items() if name in seen and (left := _after(jobs, seen[name]))
        }


def _after(jobs: deque[tuple[int, str]], number: int) -> deque[tuple[int, str]]:
    while jobs and jobs[0][0] <= number:
        jobs.popleft()
    return jobs
