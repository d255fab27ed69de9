"""Stored segments on their way back into memory, in pieces between steps, so that running streams go on meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.cache_files.file_format import DamagedFileError
from worker.engines.mlx.kv.buffers import Buffer, roomy
from worker.engines.mlx.kv.cache import Layout, Segment
from worker.engines.mlx.kv.disk import DiskTier, Reading
from worker.engines.mlx.kv.segment_file import Import
from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.node import Node, Stored

log = logging.getLogger(__name__)

STEP_BYTES = 32 << 20  # copied between two steps


@dataclass(slots=True, kw_only=True)
class _Read:
    """A file on its way. `target` is the buffer that it shares with others; `copying` is the tensor under way."""

    stored: Stored
    reading: Reading
    target: Buffer | None
    taken: Import | None = None
    copying: Iterator[int] | None = None


class Reads:
    """Belongs to the engine thread; the tier's thread reads ahead."""

    def __init__(self, index: PrefixIndex[Segment], disk: DiskTier, layout: Layout) -> None:
        self._index = index
        self._disk = disk
        self._layout = layout
        self._running: dict[bytes, _Read] = {}
        self.restored_tokens = 0

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    @property
    def has_copying(self) -> bool:
        """Whether `go_on` would copy anything."""
        return any(read.reading.is_ready or read.copying is not None for read in self._running.values())

    def has(self, stored: Stored) -> bool:
        return stored.key in self._running

    def begin(self, files: Sequence[Stored]) -> None:
        """Those that are not under way already. What follows from the first token on lands in one buffer, with room,
        so that whoever goes on from there copies nothing."""
        missing = sorted((s for s in files if s.key not in self._running), key=lambda stored: stored.start)
        chain = _chain(missing) if self._layout.has_tokens else []
        target = None
        if chain:
            leaves = len(self._layout.of_kind("tokens", self._layout.kinds))
            target = Buffer.blank(leaves, start=0, room=roomy(chain[-1].end))
        for stored in missing:
            shared = target if stored in chain else None
            self._running[stored.key] = _Read(stored=stored, reading=self._disk.read(stored.key), target=shared)

    def wait(self, timeout_s: float) -> None:
        """Return when a file has something to give, or after `timeout_s`."""
        self._disk.progress.clear()
        if not self.has_copying:
            self._disk.progress.wait(timeout_s)

    def go_on(self) -> Iterator[Segment]:
        """Copy as much as may be copied between two steps; the segments that are whole now, in the index already."""
        left_bytes = STEP_BYTES
        for read in list(self._running.values()):
            try:
                while left_bytes > 0 and (copied := self._copy(read)) is not None:
                    left_bytes -= copied
                if not (read.reading.is_over and read.copying is None):
                    continue
                segment = self._whole(read)
            except DamagedFileError as error:
                log.warning("a prefix of %d tokens was lost: %s", read.stored.end, error)
                del self._running[read.stored.key]
                self._index.lose(read.stored)
                self._release(read.target)
            else:
                del self._running[read.stored.key]
                self._index.load(read.stored, segment)
                self._release(read.target)
                yield segment

    def _copy(self, read: _Read) -> int | None:
        """One piece; its bytes, None when there is none to copy now. Raises `DamagedFileError`."""
        if read.copying is None:
            tensor = read.reading.take()
            if tensor is None:
                return None
            read.copying = self._taken(read).copying(tensor)
        copied = next(read.copying, None)
        if copied is None:
            read.copying = None
            return 0
        return copied

    def _taken(self, read: _Read) -> Import:
        file, stored = read.reading.file, read.stored
        assert file is not None
        if read.taken is None:
            if (file.info.start, file.info.end) != (stored.start, stored.end):
                raise DamagedFileError("it holds other tokens of the prefix")
            read.taken = Import(file.info, file.states, self._layout, read.target)
        return read.taken

    def _whole(self, read: _Read) -> Segment:
        segment = self._taken(read).segment()
        self.restored_tokens += read.stored.end - read.stored.start
        return segment

    def _release(self, target: Buffer | None) -> None:
        """Once all that was to land in a shared buffer is there, it is at rest."""
        if target is not None and all(read.target is not target for read in self._running.values()):
            target.give_back(0)


def _chain(files: Sequence[Stored]) -> list[Stored]:
    """Of files in the order of their starts, those that lead on from the first token without a gap or an overlap."""
    chain: list[Stored] = []
    for stored in files:
        if stored.start == (chain[-1].end if chain else 0):
            chain.append(stored)
    return chain


def files_needed(path: Sequence[Node[Segment]]) -> list[Stored]:
    """The stored copies without which the prefix that this path leads to cannot be resumed."""
    files = {node.stored.key: node.stored for node in path if node.payload is None and node.stored is not None}
    for last in path[-1:]:
        payload, stored = last.payload, last.stored
        if payload is not None and not payload.is_checkpoint and last.is_checkpoint and stored is not None:
            files[stored.key] = stored
    return list(files.values())
