"""The one clock of a fleet: that of its Redis. Clocks of machines differ, and may be set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class RedisClock:
    """What time it is for Redis, from what its TIME said last; this machine's time until then. Any thread may ask."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._ahead_s = time.time() - monotonic_s()

    def note(self, reply: Sequence[int], sent_s: float, received_s: float) -> None:
        """`reply` of TIME (seconds, microseconds) to what was sent and received at these monotonic times."""
        self._ahead_s = int(reply[0]) + int(reply[1]) / 1e6 - (sent_s + received_s) / 2

    def now_s(self) -> float:
        """Unix time as Redis has it."""
        return self._monotonic_s() + self._ahead_s

    def of_unix(self, here_s: float) -> float:
        """A Unix time of this machine, as Redis has it."""
        return here_s - time.time() + self.now_s()
