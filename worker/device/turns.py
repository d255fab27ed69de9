"""One device user at a time: the engine steps of a host's worker processes take turns.

Two processes that use Metal at once have crashed drivers and whole machines, and gain nothing. Two file locks make the
order fair, as a turnstile does: whoever wants a turn holds the gate while it waits for the room, so whoever just left
the room queues behind it. A process that nobody waits for stays in the room, with its next pass under way on the
device; the one that leaves lets the device come to rest first. The kernel frees both locks when a process dies.

Who has the room says so beside the lock, and since when it has been at its present piece of work: one that hangs there
can neither leave nor be passed by, and somebody else must end it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Makes a block of work the device's only one: `Turns.turn`, or `nullcontext` where nobody else uses it.
Turn = Callable[[], AbstractContextManager[None]]

_HOLDER = "device.holder"
_RECORD = struct.Struct("<Qd")
_CHECK = struct.Struct("<I")  # of a record: a reader may come while it is written
_NOBODY = 0
_WAITED_S = 0.0005  # more than two uncontended locks ever take
_CONTENDED_FOR_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that has the device, at one piece of work since `since_s` by the host's monotonic clock."""

    pid: int
    since_s: float


def read_holder(folder: Path) -> Holder | None:
    """Who has the device, for whoever only looks. None when nobody has it, or when that is changing just now. What a
    process that died has left here counts until the next takes the device."""
    try:
        data = (folder / _HOLDER).read_bytes()
    except OSError:
        return None
    if len(data) != _RECORD.size + _CHECK.size:
        return None
    if _CHECK.unpack_from(data, _RECORD.size)[0] != zlib.crc32(data[: _RECORD.size]):
        return None
    pid, since_s = _RECORD.unpack_from(data)
    return Holder(pid=pid, since_s=since_s) if pid != _NOBODY else None


class Turns:
    """One process's side. Not thread-safe: for the engine thread alone."""

    def __init__(self, folder: Path, settle: Callable[[], None]) -> None:
        """`folder` is the one that all workers of the host share; it is made when it is missing. `settle` returns
        once the device has done all that this process gave it."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settle = settle
        self._gate = _opened(folder / "device.gate")
        self._room = _opened(folder / "device.lock")
        self._holder = _opened(folder / _HOLDER)
        self._descriptors: tuple[int, ...] = (self._gate, self._room, self._holder)
        self._pid = os.getpid()
        self._has_room = False
        self._last_contest_s = float("-inf")
        self.waited_s = 0.0  # for others, since the start

    def take(self) -> None:
        """Wait for the device, for a piece of work that begins now. When this process still has it, it has not to
        wait."""
        if self._has_room:
            self._note(self._pid)
            return
        began_s = time.monotonic()
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._has_room = True
        self._note(self._pid)
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
            self._note(_NOBODY)
            fcntl.flock(self._room, fcntl.LOCK_UN)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The device for one piece of work, and left after it."""
        self.take()
        try:
            yield
        finally:
            self.offer(is_idle=True)

    def _note(self, pid: int) -> None:
        record = _RECORD.pack(pid, time.monotonic())
        with suppress(OSError):  # a full disk: who hangs is then not found by others
            os.pwrite(self._holder, record + _CHECK.pack(zlib.crc32(record)), 0)

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
        if self._has_room:
            self._note(_NOBODY)
            self._has_room = False
        for descriptor in descriptors:
            os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
