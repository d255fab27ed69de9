"""For how long the one who judges the silence of others has itself been there to hear them.

A process that was stopped, or slept with its machine, wakes with everybody's last sign of life long past: its own
absence explains that silence, and nobody is taken for dead because of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Steady:
    """`most_gap_s`: between two looks; with a longer one, whoever looks was away. One thread looks, any may ask."""

    def __init__(self, most_gap_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._most_gap_s = most_gap_s
        self._now = now
        self._looked_s = self._since_s = now()

    def look(self) -> None:
        now_s = self._now()
        if now_s - self._looked_s > self._most_gap_s:
            self._since_s = now_s
        self._looked_s = now_s

    @property
    def for_s(self) -> float:
        """Seconds without a gap, up to now; 0 during one."""
        now_s = self._now()
        return 0.0 if now_s - self._looked_s > self._most_gap_s else now_s - self._since_s
