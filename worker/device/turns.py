"""One device user at a time: the engine steps of a host's worker processes take turns.

Two processes that use Metal at once have crashed drivers and whole machines, and gain nothing. Two file locks make the
order fair, as a turnstile does: whoever wants a turn holds the gate while it waits for the room, so whoever just left
the room queues behind it. A process that nobody waits for stays in the room, with its next pass under way on the
device; the one that leaves lets the device come to rest first. The kernel frees both locks when a process dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

_WAITED_S = 0.0005  # more than two uncontended locks ever take
_CONTENDED_FOR_S = 2.0


class Turns:
    """One process's side. Not thread-safe: for the engine thread alone."""

    def __init__(self, folder: Path, settle: Callable[[], None]) -> None:
        """`folder` is the one that all workers of the host share; it is made when it is missing. `settle` returns
        once the device has done all that this process gave it."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settle = settle
        self._gate = _opened(folder / "device.gate")
        self._room = _opened(folder / "device.lock")
        self._descriptors: tuple[int, ...] = (self._gate, self._room)
        self._has_room = False
        self._last_contest_s = float("-inf")
        self.waited_s = 0.0  # for others, since the start

    def take(self) -> None:
        """Wait for the device. Nothing to do when this process still has it."""
        if self._has_room:
            return
        began_s = time.monotonic()
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._has_room = True
        now_s = time.monotonic()
        if now_s - began_s > _WAITED_S:
            self.waited_s += now_s - began_s
            self._last_contest_s = now_s

    def offer(self, *, is_idle: bool) -> None:
        """The end of a step: leave when somebody waits, or when there is nothing more to do."""
        if not self._has_room:
            return
        is_wanted = self._is_wanted()
        if is_wanted:
            self._last_contest_s = time.monotonic()
        if is_wanted or is_idle:
            self._settle()
            self._has_room = False
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def _is_wanted(self) -> bool:
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return False

    @property
    def is_contended(self) -> bool:
        """Whether another process wanted the device a moment ago: steps should be short."""
        return time.monotonic() - self._last_contest_s < _CONTENDED_FOR_S

    def close(self) -> None:
        """Idempotent; leaves the device."""
        descriptors, self._descriptors = self._descriptors, ()
        self._has_room = False
        for descriptor in descriptors:
            os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
