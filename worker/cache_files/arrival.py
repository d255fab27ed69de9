"""Files of another host on their way here, for one prompt; and whether it is still worth to wait for them."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.cache_door import hang_up
from shared.cost import PrefillCost
from worker.cache_files.file_format import FileInfo

_WINDOW_S = 1.0  # in which the rate is measured
_GRACE_S = 0.5  # at the most, before it counts
_SILENCES = 3.0


@dataclass(slots=True, eq=False, kw_only=True)
class Arrival:
    """`wanted` are the files, in the order in which they come, to have
    tokens `start..end` of a prompt. Changed by the
    thread that fetches: `arrived` and `got_bytes` while it goes on, then `failure` (a word, empty when all came) and
    `is_over`."""

    peer: str
    wanted: Sequence[FileInfo]
    start: int
    end: int
    began_s: float
    arrived: deque[FileInfo] = field(default_factory=deque)
    got_bytes: int = 0
    failure: str = ""
    stream: socket.socket | None = None
    is_slow: bool = False
    is_over: bool = False
    depth: int = 0  # down to which all came

    def __post_init__(self) -> None:
        self.depth = self.start

    def give_up(self) -> None:
        """Nobody waits for it any more. What has come stays."""
        self.is_slow = True
        if self.stream is not None:
            hang_up(self.stream)

    @property
    def total_bytes(self) -> int:
        return sum(info.nbytes for info in self.wanted)


@dataclass(slots=True)
class Patience:
    """Watches one arrival. Belongs to one thread, which asks again and again."""

    arrival: Arrival
    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _heard_s: float = 0.0

    def is_used_up(self, now_s: float, cost: PrefillCost) -> bool:
        """Whether to compute what is missing is sooner than to wait for it, or all could have been computed by now."""
        arrival = self.arrival
        waited_s = now_s - arrival.began_s
        self._seen.append((now_s, arrival.got_bytes))
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - _WINDOW_S:
            self._seen.popleft()
        if arrival.got_bytes >= arrival.total_bytes:
            return False  # it only has yet to be checked
        left_s = cost.predict_s(arrival.depth, arrival.end)
        if waited_s > cost.predict_s(arrival.start, arrival.end):
            return True
        if waited_s < min(_GRACE_S, left_s / 2):
            return False
        return self._missing_s(now_s) > left_s

    def _missing_s(self, now_s: float) -> float:
        """Until the rest is here, at the rate of the last second. Silence is expected to last a few times as long as it
        has: a peer that is busy comes back."""
        since_s, before = self._seen[0] if len(self._seen) > 1 else (self.arrival.began_s, 0)
        came = self.arrival.got_bytes - before
        missing = self.arrival.total_bytes - self.arrival.got_bytes
        if came > 0:
            self._heard_s = max(self._heard_s, since_s)
            return missing * (now_s - since_s) / came
        return _SILENCES * (now_s - max(self._heard_s, self.arrival.began_s))
