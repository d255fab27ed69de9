"""How long a request waits on one worker until its prefill begins.

Two things let it wait: a place in the batch, and its turn to be prefilled. Places become free one per
`service_s / capacity` seconds, where `service_s` is how long a request holds its place, measured by the worker
from the start of the prefill; the first one after the mean residual time, which their spread makes longer. Prefills
take their turns, so that those ahead add up: what the worker holds, and what waits on its lists before this request, by
class and by score. Whichever takes longer is the wait.
"""

from __future__ import annotations

import math

from gateway.dispatch.facts import Sight, Wait
from shared.notes import Note
from shared.places import NONE, Counts, free_places
from shared.registry import WorkerLease
from shared.request import PRIORITIES, Priority

_LUCK = 4.0
_WIDEST = 2.0  # deviation over mean that is believed
_PREFILL_LUCK = 0.7  # of a predicted prefill: a prefix may be found in the cache
_NOTHING = Sight()


def wait_on(
    worker: WorkerLease, priority: Priority, *, sight: Sight = _NOTHING, score: float = math.inf
) -> Wait | None:
    """None while the worker has measured nothing and has no free place."""
    rank = PRIORITIES.index(priority)
    jobs, listed_s = _ahead(worker, rank, sight, score)
    departures = max(0, jobs + 1 - free(worker, priority))
    if departures and not worker.service_s:
        return None
    turn_s = worker.service_s / max(1, worker.capacity)
    spread = min(_WIDEST, worker.service_deviation_s / worker.service_s) if worker.service_s else 0.0
    prefill_s = sum(worker.waiting_s[: rank + 1]) + listed_s
    turns = departures - 1 + (1 + spread * spread) / 2 if departures else 0.0
    rounds = max(0, departures - 1) // max(1, worker.capacity)  # places may become free all at once
    lucky = max(0.0, rounds * max(1, worker.capacity) - _LUCK * spread * math.sqrt(departures))
    return Wait(
        expected_s=max(turns * turn_s, prefill_s),
        least_s=max(lucky * turn_s, _PREFILL_LUCK * prefill_s),
        is_for_place=departures > 0,
    )


def _ahead(worker: WorkerLease, rank: int, sight: Sight, score: float) -> tuple[int, float]:
    """Jobs on the worker's lists that come first, and the seconds of their prefills. What nothing is noted of comes
    first, and takes as long as prefills do here."""
    known: list[Note] = [note for note in sight.notes.values() if note.lane in PRIORITIES]
    behind = sum(note.lane == PRIORITIES[rank] and note.score > score for note in known)
    jobs = max(0, sum(waiting(worker)[: rank + 1]) - behind)
    first = [note for note in known if _comes_first(note, rank, score)][:jobs]
    seconds = sum(note.prefill_s or worker.prefill_s for note in first)
    return jobs, seconds + (jobs - len(first)) * worker.prefill_s


def _comes_first(note: Note, rank: int, score: float) -> bool:
    its = PRIORITIES.index(note.lane)
    return its < rank or (its == rank and note.score <= score)


def free(worker: WorkerLease, priority: Priority) -> int:
    return free_places(worker.capacity, worker.held, priority, reserved=worker.reserved_places)


def waiting(worker: WorkerLease) -> Counts:
    """Jobs in the worker's lists, by class."""
    return worker.queued or NONE


def busy(worker: WorkerLease) -> float:
    return (sum(worker.held) + sum(waiting(worker))) / max(1, worker.capacity)
