"""Who makes place for requests of the first class when a worker holds more than its capacity."""

from __future__ import annotations

from collections.abc import Mapping, Set

from shared.request import PRIORITIES, Priority


class Pauses:
    """Follows what the engine does: a request that was paused goes on, the first first, once fewer than `capacity`
    run. Of those that run the latest of the lowest class is paused."""

    def __init__(self) -> None:
        self._paused: list[str] = []

    def choose(self, held: Mapping[str, Priority], in_engine: Set[str], capacity: int) -> list[str]:
        """The requests to pause now. `held` are all that the worker has, oldest first. Who is still on the way to the
        engine cannot be paused, and needs no place yet: the engine would give it to whoever was paused for it."""
        self._paused = [name for name in self._paused if name in held]
        running = len(in_engine) - len(self._paused)
        going_on = max(0, capacity - running)
        self._paused = self._paused[going_on:]
        candidates = [name for name in held if name in in_engine and name not in self._paused]
        candidates = [name for name in candidates if held[name] != PRIORITIES[0]]
        candidates.sort(key=lambda name: PRIORITIES.index(held[name]))
        excess = max(0, running + going_on - capacity)
        chosen = candidates[len(candidates) - excess :] if excess else []
        self._paused += chosen
        return chosen
