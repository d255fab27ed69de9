"""The folder in which kept prefixes outlive the process: writes and reads beside the engine, never in its way.

One thread writes and deletes, in the order asked for; another reads ahead: files are mapped into memory, and each
tensor is handed over once its checksum was compared. A file appears under its name only when it is whole, so a process
killed at any moment leaves at most a temporary file. A damaged file is set aside and its content computed again; one
of another version of this program is removed. Another worker of the same model may use the folder at the same time:
files that it removed are missed like damaged ones.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from worker.cache_files.file_format import (
    DamagedFileError,
    FileInfo,
    FileWriter,
    MappedFile,
    OtherFormatError,
    Shape,
    Tensor,
    nothing_to_check,
    read_info,
)

log = logging.getLogger(__name__)

MAX_AGE_S = 14 * 86400.0  # since a file was last used
_LEFTOVER_AGE_S = 600.0  # of a temporary file whose writer must be dead
_FREE_SHARE = 0.1
_MAX_AUTO_BYTES = 64 << 30
_FUTURE_S = 60.0  # that clocks may differ
_PAUSE_S = 30.0  # after a write that failed
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_SHARE = 0.9  # of what is stored, when there is no space for more
_SUFFIX = ".safetensors"
Check = Callable[[Shape], None]


def open_disk(folder: Path, wanted_bytes: int, check: Check) -> DiskTier | None:
    """The tier in `folder`, with the budget that `disk_budget` says. None when there is none, or when the folder
    cannot be used: what is kept then ends with the process."""
    try:
        max_bytes = disk_budget(folder, wanted_bytes)
        return DiskTier(folder, max_bytes=max_bytes, check=check) if max_bytes else None
    except OSError as error:
        log.warning("nothing is kept on disk: %s", error)
        return None


def disk_budget(folder: Path, wanted_bytes: int) -> int:
    """Bytes of the tier: as set; 0 chooses a tenth of what is free where `folder` will be; negative means none."""
    if wanted_bytes:
        return max(0, wanted_bytes)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    return min(int(shutil.disk_usage(existing).free * _FREE_SHARE), _MAX_AUTO_BYTES)


class Writing:
    """A file on its way to the disk. The calls of one thread are carried out on another, in their order."""

    def __init__(self, thread: ThreadPoolExecutor, writer: FileWriter) -> None:
        self._thread = thread
        self._writer = writer
        self._error: OSError | None = None
        self._taken_bytes = self._written_bytes = 0
        self.is_over = False
        self._submit(self._writer.begin)

    @property
    def unwritten_bytes(self) -> int:
        return self._taken_bytes - self._written_bytes

    def add(self, piece: bytes) -> None:
        self._taken_bytes += len(piece)
        self._submit(lambda: self._add(piece))

    def end(self) -> Future[int]:
        """The file's size, once it is there. Fails with `OSError`: tell the tier `write_failed` then."""
        return self._thread.submit(self._end)

    def _submit(self, call: Callable[[], None]) -> None:
        self._thread.submit(self._try, call)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            if self._error is None:
                call()
        except OSError as error:
            self._error = error
            self._writer.give_up()

    def _add(self, piece: bytes) -> None:
        self._writer.add(piece)
        self._written_bytes += len(piece)

    def _end(self) -> int:
        self.is_over = True
        if self._error is not None:
            raise self._error
        try:
            return self._writer.end()
        except OSError:
            self._writer.give_up()
            raise

    def give_up(self) -> None:
        """Once the thread has ended: nothing half remains."""
        if not self.is_over:
            self._writer.give_up()


class Reading:
    """A file on its way into memory: its tensors, one after another, as soon as each is there and whole. `file` is
    there before the first. Filled on one thread, emptied on another, which is woken by `progress`."""

    def __init__(self, progress: threading.Event) -> None:
        self._progress = progress
        self._tensors: deque[Tensor] = deque()
        self._error: DamagedFileError | None = None
        self._is_over = False
        self.file: MappedFile | None = None

    def fill(self, file: MappedFile) -> None:
        """Raises `DamagedFileError`."""
        self.file = file
        for name in file.names:
            self._tensors.append(file.tensor(name))
            self._progress.set()

    def end(self, error: DamagedFileError | None) -> None:
        self._error, self._is_over = error, True
        self._progress.set()

    @property
    def is_ready(self) -> bool:
        """Whether `take` has something to give or to say."""
        return bool(self._tensors) or self._is_over

    @property
    def is_over(self) -> bool:
        """Whether all were taken."""
        return self._is_over and not self._tensors

    def take(self) -> Tensor | None:
        """The next one, None when it is not there yet, or never will be. Raises `DamagedFileError`, in the place of
        the tensor that is."""
        if self._tensors:
            return self._tensors.popleft()
        if self._error is not None:
            raise self._error
        return None


class DiskTier:
    """The files of one model. Used from the engine thread; the work is done on two threads of its own."""

    def __init__(self, folder: Path, *, max_bytes: int, check: Check = nothing_to_check) -> None:
        """`check` raises `DamagedFileError` for what the model could not go on from."""
        self._folder = folder
        self._check = check
        self.max_bytes = max_bytes
        self.damaged = 0
        self._seen_bytes = self._seen_tokens = 0
        self.pause_s = _PAUSE_S
        self._paused_until_s = 0.0
        self._writings: list[Writing] = []
        self._deleting: deque[bytes] = deque()  # in the order asked for
        self._writer = ThreadPoolExecutor(1, "cache-writer")
        self._reader = ThreadPoolExecutor(1, "cache-reader")
        self.progress = threading.Event()  # set whenever a reading has more to give
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def scan(self) -> list[FileInfo]:
        """What earlier processes left, parents before children. Old and damaged files are put away; what cannot be
        looked at is left alone."""
        found = []
        for path in self._list():
            try:
                info = self._look_at(path)
            except FileNotFoundError:
                continue  # another worker of the model removed it
            except OSError as error:
                log.warning("%s in the cache folder is left alone: %s", path.name, error)
                continue
            if info is not None:
                found.append(info)
        return sorted(found, key=lambda info: info.start)

    def _list(self) -> list[Path]:
        try:
            return sorted(self._folder.iterdir())
        except OSError as error:
            log.warning("what was kept on disk cannot be found: %s", error)
            return []

    def _look_at(self, path: Path) -> FileInfo | None:
        age_s = time.time() - path.stat().st_mtime
        if path.suffix != _SUFFIX:
            if abs(age_s) > _LEFTOVER_AGE_S:
                path.unlink(missing_ok=True)
        elif age_s > MAX_AGE_S:
            path.unlink(missing_ok=True)
        else:
            if age_s < -_FUTURE_S:  # a wrong clock once: it must not stay young for ever
                os.utime(path)
            try:
                return read_info(path)
            except OtherFormatError:
                path.unlink(missing_ok=True)
            except DamagedFileError as error:
                self._set_aside(path, error)
        return None

    def write(self, shape: Shape) -> Writing:
        """A new file, to be filled piece by piece."""
        self._writings = [writing for writing in self._writings if not writing.is_over]
        self._writings.append(Writing(self._writer, FileWriter(shape, self._path(shape.info.key))))
        return self._writings[-1]

    def read(self, key: bytes) -> Reading:
        """Of a file that turns out to be damaged; it is set aside then."""
        reading = Reading(self.progress)
        self._reader.submit(self._read, key, reading)
        return reading

    def note_size(self, info: FileInfo, nbytes: int) -> None:
        """A file was found or written."""
        self._seen_bytes += nbytes
        self._seen_tokens += info.end - info.start

    @property
    def bytes_per_token(self) -> float:
        """Of files, on an average; 0 while there were none."""
        return self._seen_bytes / max(1, self._seen_tokens)

    @property
    def is_writable(self) -> bool:
        """Whether to try: not for a while after a failure."""
        return time.monotonic() >= self._paused_until_s

    def write_failed(self, error: OSError, stored_bytes: int) -> None:
        """Pause; on a full disk also come down from the `stored_bytes` that the tier holds now."""
        if self.is_writable:
            log.warning("a prefix could not be written to %s: %s", self._folder, error)
        self._paused_until_s = time.monotonic() + self.pause_s
        if error.errno in _FULL:
            self.max_bytes = min(self.max_bytes, int(stored_bytes * _FULL_SHARE))

    def delete(self, key: bytes) -> None:
        self._deleting.append(key)
        self._writer.submit(self._delete_next)

    def close(self) -> None:
        """End both threads; what they have not begun to read or write is given up, what was to go goes."""
        for executor in (self._reader, self._writer):
            executor.shutdown(wait=True, cancel_futures=True)
        for writing in self._writings:
            writing.give_up()
        while self._deleting:
            self._delete_next()

    def _delete_next(self) -> None:
        self._delete(self._deleting.popleft())

    def _delete(self, key: bytes) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            log.warning("a file of %s cannot be removed: %s", self._folder, error)

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}{_SUFFIX}"

    def _read(self, key: bytes, reading: Reading) -> None:
        path = self._path(key)
        try:
            file = MappedFile(path)
            if file.info.key != key:
                raise DamagedFileError("it holds another prefix")
            self._check(file.shape)
            reading.fill(file)
        except DamagedFileError as error:
            self._set_aside(path, error)
            reading.end(error)
        except Exception as error:  # what cannot be read is computed; whoever waits for it must not wait for ever
            log.exception("cache file %s cannot be read", path.name)
            reading.end(DamagedFileError(f"{type(error).__name__}: {error}"))
        else:
            reading.end(None)
            with contextlib.suppress(OSError):  # its age matters less than what it holds
                os.utime(path)

    def _set_aside(self, path: Path, error: DamagedFileError) -> None:
        self.damaged += 1
        log.warning("cache file %s is damaged (%s): set aside, its tokens will be computed again", path.name, error)
        try:
            path.replace(path.with_suffix(".damaged"))
        except FileNotFoundError:
            pass  # that was the damage
        except OSError as failure:
            log.warning("%s stays where it is: %s", path, failure)
