"""How many requests of a class a worker may begin: gateways predict by it, workers take by it."""

from __future__ import annotations

from collections.abc import Sequence

from shared.request import PRIORITIES, Priority

RESERVED_PLACES = 2  # beyond a worker's capacity, for requests of the first class

Counts = tuple[int, ...]  # per class, in the order of `PRIORITIES`
NONE: Counts = (0,) * len(PRIORITIES)


def free_places(capacity: int, held: Sequence[int], priority: Priority, *, reserved: int = RESERVED_PLACES) -> int:
    """How many more requests of this class may run beside those `held`, counted by class. Those of the first class may
    pass the capacity by as many as are `reserved`, where requests of a lower class hold places: those are paused."""
    held = held or NONE
    free = max(1, capacity) - sum(held)
    if priority == PRIORITIES[0]:
        free += min(reserved, sum(held[1:]))
    return max(0, free)
