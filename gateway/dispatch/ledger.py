"""What this gateway has put on workers' lists, or is putting there, and their leases do not show yet."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from shared.places import NONE, Counts
from shared.registry import WorkerLease
from shared.request import PRIORITIES
from shared.work import LANES_BESIDE


class Ledger:
    """Jobs put on a worker's lists are counted; a lease says up to which number it has seen them. One that is on its
    way there has no number yet."""

    def __init__(self) -> None:
        self._placed: dict[str, deque[tuple[int, str]]] = {}  # worker -> (number, lane)
        self._coming: Counter[tuple[str, str]] = Counter()  # (worker, lane)

    @contextmanager
    def coming(self, worker: str, lane: str) -> Iterator[None]:
        """While a job is put on a worker's list: who is placed meanwhile takes it for one that is there."""
        self._coming[worker, lane] += 1
        try:
            yield
        finally:
            self._coming[worker, lane] -= 1
            self._coming = +self._coming

    def note(self, worker: str, number: int, lane: str) -> None:
        self._placed.setdefault(worker, deque()).append((number, lane))

    def since(self, workers: Iterable[WorkerLease], *, with_coming: bool = False) -> dict[str, Counts]:
        """By worker and class. Nothing is forgotten here: who asks with a younger count may ask with an older lease
        afterwards."""
        found = self._since(workers, with_coming=with_coming)
        return {name: tuple(lanes[p] for p in PRIORITIES) for name, lanes in found}

    def since_beside(self, workers: Iterable[WorkerLease], *, with_coming: bool = False) -> dict[str, dict[str, int]]:
        """By worker and lane, of the kinds of work that have their own."""
        found = self._since(workers, with_coming=with_coming)
        return {name: {lane: lanes[lane] for lane in LANES_BESIDE} for name, lanes in found}

    def _since(self, workers: Iterable[WorkerLease], *, with_coming: bool) -> Iterator[tuple[str, Counter[str]]]:
        for worker in workers:
            placed = self._placed.get(worker.worker, ())
            lanes = Counter(lane for number, lane in placed if number > worker.placed)
            if with_coming:
                lanes.update({lane: count for (name, lane), count in self._coming.items() if name == worker.worker})
            if lanes:
                yield worker.worker, lanes

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
