"""Segments that the memory's budget has no room for, on their way through it to the disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.engines.mlx.kv.cache import Segment
from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.node import Node

MAX_BYTES = 256 << 20  # at one time, beyond the budget


@dataclass(frozen=True, slots=True)
class _Passing:
    node: Node[Segment]
    start: int
    nbytes: int


class Passing:
    """Belongs to the engine thread. What passes stays in memory until it is written, and is not counted there."""

    def __init__(self, index: PrefixIndex[Segment]) -> None:
        self._index = index
        self._segments: list[_Passing] = []

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self._segments)

    def leads_to(self, node: Node[Segment]) -> bool:
        """Whether something on the way to `node` passes."""
        path = self._index.path(node)
        return any(each.node in path for each in self._segments)

    def add(self, node: Node[Segment], start: int, nbytes: int) -> None:
        """What is kept of the tokens from `start` to the end of `node` takes so many bytes more than there is room."""
        self._hold(node, start, 1)
        self._segments.append(_Passing(node, start, nbytes))

    def end(self, is_unwritten: Callable[[Node[Segment]], bool]) -> bool:
        """Let go of what is written, or will never be. Whether there was any."""
        over = [each for each in self._segments if not is_unwritten(each.node)]
        for each in over:
            self._segments.remove(each)
            self._hold(each.node, each.start, -1)
        return bool(over)

    def _hold(self, node: Node[Segment], start: int, count: int) -> None:
        for member in self._index.path(node):  # it may have been cut since
            if member.start >= start:
                member.holds += count
