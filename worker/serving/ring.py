"""What was sent lately, kept for as long as somebody may have missed it, within a bound."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

KEPT_S = 10.0
KEPT_BYTES = 4 * 1024 * 1024

_T = TypeVar("_T")


class Ring(Generic[_T]):
    """Moments are monotonic seconds. Not thread-safe."""

    def __init__(self, *, kept_s: float = KEPT_S, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_s = kept_s
        self._kept_bytes = kept_bytes
        self._items: deque[tuple[float, int, _T]] = deque()
        self.size_bytes = 0

    def add(self, item: _T, size_bytes: int, now_s: float) -> None:
        """The oldest go where there is no room."""
        self._items.append((now_s, size_bytes, item))
        self.size_bytes += size_bytes
        self._forget(now_s)

    def recent(self, now_s: float) -> list[_T]:
        """Oldest first."""
        self._forget(now_s)
        return [item for _, _, item in self._items]

    def _forget(self, now_s: float) -> None:
        while self._items and (self.size_bytes > self._kept_bytes or self._items[0][0] < now_s - self._kept_s):
            self.size_bytes -= self._items.popleft()[1]
