"""What the workers of one host hold of its memory: each keeps a small file that says so, and reads the others'.

A worker holds the lock of its file for as long as it lives; the kernel frees it when the process dies, however it
dies. A file that nobody holds is a dead worker's: it counts no more and is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.device.sharing import Holding

log = logging.getLogger(__name__)

_RECORD = struct.Struct("<QQQQd")
_CHECK = struct.Struct("<I")  # of a record: a reader may come while it is written
_SIZE = _RECORD.size + _CHECK.size
_SUFFIX = ".memory"
_CLAIMS = "memory.lock"
_LOOK_FOR_OTHERS_S = 0.1
_UNFINISHED_S = 60.0  # after which a file without a record is a dead process's


class Neighbours:
    """One process's side. Not thread-safe: for the engine thread alone."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the one that all workers of the host share; it is made when it is missing."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._file: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # another that looks whether we live holds it for a moment
        self._published: Holding | None = None
        self._others: dict[str, tuple[int, Holding]] = {}  # file name: descriptor, what it said last
        self._looked_s = float("-inf")
        self.publish(Holding(base_bytes=0))

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """One worker of the host at a time: what the others hold stays as it is for the block, but for less."""
        lock = os.open(self._folder / _CLAIMS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def publish(self, mine: Holding) -> None:
        """Let the others know. Costs next to nothing when nothing has changed."""
        if mine == self._published or self._file is None:
            return
        record = _RECORD.pack(mine.base_bytes, mine.running_bytes, mine.spare_bytes, mine.wanted_bytes, mine.since_s)
        try:
            os.pwrite(self._file, record + _CHECK.pack(zlib.crc32(record)), 0)
        except OSError as error:  # a full disk: the others go on with what they know
            log.warning("other workers cannot be told of this one's memory: %s", error)
        self._published = mine

    def others(self, *, is_exact: bool = False) -> list[Holding]:
        """What the other live workers hold. Newcomers and deaths show within a tenth of a second, or at once if
        `is_exact`."""
        now_s = time.monotonic()
        if is_exact or now_s - self._looked_s >= _LOOK_FOR_OTHERS_S:
            self._look_for_others()
            self._looked_s = now_s
        for name, (descriptor, last) in self._others.items():
            self._others[name] = (descriptor, _read(descriptor) or last)
        return [holding for _, holding in self._others.values()]

    def close(self) -> None:
        """Take this worker out. Idempotent."""
        for descriptor, _ in self._others.values():
            os.close(descriptor)
        self._others.clear()
        mine, self._file = self._file, None
        if mine is not None:
            self._path.unlink(missing_ok=True)
            os.close(mine)

    def _look_for_others(self) -> None:
        names = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith(_SUFFIX)}
        for name in names - self._others.keys() - {self._path.name}:
            self._meet(name)
        for name, (descriptor, _) in list(self._others.items()):
            if name not in names or _is_dead(descriptor):
                self._forget(name)

    def _meet(self, name: str) -> None:
        path = self._folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        holding = _read(descriptor)
        if holding is not None:
            self._others[name] = (descriptor, holding)
            return
        if time.time() - os.fstat(descriptor).st_mtime > _UNFINISHED_S:
            path.unlink(missing_ok=True)
        os.close(descriptor)

    def _forget(self, name: str) -> None:
        descriptor, _ = self._others.pop(name)
        os.close(descriptor)
        (self._folder / name).unlink(missing_ok=True)


def read_holdings(folder: Path) -> list[Holding]:
    """What every live worker of the host says, for whoever only looks."""
    return [holding for _, holding in _living(folder)]


def holdings_by_pid(folder: Path) -> dict[int, Holding]:
    """The same by the worker's process."""
    owners = ((name.partition("-")[0], holding) for name, holding in _living(folder))
    return {int(pid): holding for pid, holding in owners if pid.isdecimal()}


def _living(folder: Path) -> Iterator[tuple[str, Holding]]:
    """By the names of their files."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        holding = _read(descriptor)
        if holding is not None and not _is_dead(descriptor):
            yield path.name, holding
        os.close(descriptor)


def _read(descriptor: int) -> Holding | None:
    """None when it is not whole: being written, or not yet."""
    data = os.pread(descriptor, _SIZE, 0)
    if len(data) != _SIZE or _CHECK.unpack_from(data, _RECORD.size)[0] != zlib.crc32(data[: _RECORD.size]):
        return None
    base, running, spare, wanted, since_s = _RECORD.unpack_from(data)
    return Holding(base_bytes=base, running_bytes=running, spare_bytes=spare, wanted_bytes=wanted, since_s=since_s)


def _is_dead(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
