"""For how long an engine has worked without a sign of life."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FADES = 0.999  # with each sign of life: a long step is remembered for hundreds of them


class StallClock:
    """Runs only while the engine is at work: not while it has nothing to do, nor while it waits for a device that
    another process has. One thread runs it, any may read it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.longest_s = 0.0  # between two signs of life, lately
        self._counted: tuple[float, float | None] = (0.0, None)  # seconds so far, and since when it runs

    @property
    def silent_s(self) -> float:
        spent_s, since_s = self._counted
        return spent_s if since_s is None else spent_s + self._now() - since_s

    @contextmanager
    def running(self) -> Iterator[None]:
        self._counted = (self.silent_s, self._now())
        try:
            yield
        finally:
            self._counted = (self.silent_s, None)

    def alive(self) -> None:
        """Begin anew."""
        self.longest_s = max(self.silent_s, self.longest_s * _FADES)
        self._counted = (0.0, None if self._counted[1] is None else self._now())
