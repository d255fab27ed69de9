"""Files of another host on their way here, for one prompt; and whether it is still worth to wait for them."""

from __future__ import annotations

import socket
import threading
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
    """`wanted` are the files, parents before children, to have tokens `start..end` of a prompt. They come in this
    order, or, when `is_from_end`, the last first, while the front is computed until both meet: then each file is either
    fetched or computed, by who comes to it first.

    Changed by the thread that fetches: `arrived`, `current` and `got_bytes` while it goes on, then `failure` (a word,
    empty when all came that was still wanted) and `is_over`."""

    peer: str
    wanted: Sequence[FileInfo]
    start: int
    end: int
    began_s: float
    is_from_end: bool = False
    arrived: deque[FileInfo] = field(default_factory=deque)
    current: FileInfo | None = None  # on its way
    got_bytes: int = 0
    failure: str = ""
    stream: socket.socket | None = None
    is_slow: bool = False
    is_over: bool = False
    depth: int = 0  # down to which all came; of one from the end, from which on
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _left: deque[FileInfo] = field(default_factory=deque)  # nobody has come to them

    def __post_init__(self) -> None:
        self.depth = self.end if self.is_from_end else self.start
        self._left.extend(reversed(self.wanted) if self.is_from_end else self.wanted)

    def next_wanted(self) -> FileInfo | None:
        """What to fetch now."""
        with self._lock:
            self.current = self._left.popleft() if self._left and not self.is_slow else None
            return self.current

    def note_arrived(self, info: FileInfo) -> None:
        """It is here, whole."""
        self.arrived.append(info)
        with self._lock:
            self.depth = info.start if self.is_from_end else info.end
            self.current = None

    def is_coming_at(self, position: int) -> bool:
        """Whether the file that has the token there is on its way."""
        current = self.current
        return current is not None and current.start <= position < current.end

    def compute_at(self, position: int) -> int | None:
        """Somebody computes the prompt from `position` on, so that the file there is not fetched. How far, before
        asking again; None when it is on its way."""
        with self._lock:
            if self.is_coming_at(position):
                return None
            while self._left and self._left[-1].start <= position:
                self._left.pop()  # what begins before is computed, not fetched
            ends = [info.start for info in self._left] + [self.depth]
            if self.current is not None:
                ends.append(self.current.start)
            return min((end for end in ends if end > position), default=self.end)

    def give_up(self) -> None:
        """Nobody waits for it any more. What has come stays."""
        self.is_slow = True
        if self.stream is not None:
            hang_up(self.stream)

    @property
    def missing_bytes(self) -> int:
        """Until all is here, or, of one from the end, what is on its way now."""
        if not self.is_from_end:
            return sum(info.nbytes for info in self.wanted) - self.got_bytes
        current = self.current
        return sum(info.nbytes for info in (*self.arrived, *([current] if current else []))) - self.got_bytes


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
        self.look(now_s)
        if arrival.missing_bytes <= 0:
            return False  # it only has yet to be checked
        left_s = cost.predict_s(arrival.depth, arrival.end)
        if waited_s > cost.predict_s(arrival.start, arrival.end):
            return True
        if waited_s < min(_GRACE_S, left_s / 2):
            return False
        return self._missing_s(now_s) > left_s

    def look(self, now_s: float) -> None:
        """Note how much has come."""
        self._seen.append((now_s, self.arrival.got_bytes))
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - _WINDOW_S:
            self._seen.popleft()

    def is_nearly_here(self, now_s: float, cost: PrefillCost) -> bool:
        """Whether the file that is on its way comes sooner than it would be computed."""
        self.look(now_s)
        current = self.arrival.current
        if current is None or self.arrival.missing_bytes <= 0:
            return current is not None
        return self._missing_s(now_s) <= cost.predict_s(current.start, current.end)

    def _missing_s(self, now_s: float) -> float:
        """Until the rest is here, at the rate of the last second. Silence is expected to last a few times as long as it
        has: a peer that is busy comes back."""
        since_s, before = self._seen[0] if len(self._seen) > 1 else (self.arrival.began_s, 0)
        came = self.arrival.got_bytes - before
        missing = self.arrival.missing_bytes
        if came > 0:
            self._heard_s = max(self._heard_s, since_s)
            return missing * (now_s - since_s) / came
        return _SILENCES * (now_s - max(self._heard_s, self.arrival.began_s))
