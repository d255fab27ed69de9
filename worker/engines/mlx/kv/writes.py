"""New segments on their way to files, parents before children, and what earlier processes left there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass

from worker.cache_files.file_format import FileInfo
from worker.engines.mlx.kv.answers import spelling_of
from worker.engines.mlx.kv.cache import Segment
from worker.engines.mlx.kv.disk import DiskTier, Writing
from worker.engines.mlx.kv.segment_file import Export, can_store
from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.node import MAIN_WEIGHT, Node, Stored
from worker.prefix_cache.tokens import slice_tokens
from worker.prompt import Spelling

log = logging.getLogger(__name__)

_MAX_UNWRITTEN_BYTES = 32 << 20  # of host copies that wait for the disk
_STEP_BYTES = 16 << 20  # copied for the disk between two steps
_FLUSH_POLL_S = 0.05
_LATER_NODES = 1000  # that wait for an idle moment, before those that are gone are looked for


@dataclass(slots=True, kw_only=True)
class _Write:
    """A segment on its way to a file. `size` is there once all its pieces were handed over."""

    node: Node[Segment]
    info: FileInfo
    pieces: Iterator[bytes]
    writing: Writing
    size: Future[int] | None = None


def _there(nodes: Mapping[bytes, Node[Segment]]) -> dict[bytes, Node[Segment]]:
    """Those that are still kept in memory alone."""
    return {key: n for key, n in nodes.items() if n.parent is not None and n.payload is not None and n.stored is None}


class Writes:
    """Belongs to the engine thread; the tier's threads do the work."""

    def __init__(self, index: PrefixIndex[Segment], disk: DiskTier, *, is_packed: bool) -> None:
        self._index = index
        self._is_packed = is_packed
        self._disk = disk
        self._running: dict[bytes, _Write] = {}
        self._later: dict[bytes, Node[Segment]] = {}  # for when there is nothing else to do
        self._most_later = _LATER_NODES

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    @property
    def has_copying(self) -> bool:
        """Whether `go_on` would copy anything for the disk."""
        is_under_way = any(write.size is None for write in self._running.values())
        is_new = self._disk.is_writable and bool(self._index.changed or self._later)
        return (is_under_way or is_new) and self._left_bytes() > 0

    @property
    def has_later(self) -> bool:
        """Whether something waits for an idle moment."""
        return bool(self._later)

    def is_unwritten(self, node: Node[Segment]) -> bool:
        """Whether something that leads to `node` has yet to be written, or would be if the disk were well."""
        return any(n.key in self._index.changed or n.key in self._running for n in self._index.path(node))

    def collect(self, *, is_idle: bool) -> None:
        """Take note of the files that are there now, and go on."""
        for key, write in list(self._running.items()):
            if write.size is not None and write.size.done():
                del self._running[key]
                self._take_written(write, write.size)
        self.go_on(is_idle=is_idle)

    def wait(self, timeout_s: float) -> None:
        """Return when a file is there, or after a moment."""
        sizes = [write.size for write in self._running.values() if write.size is not None]
        wait(sizes, min(timeout_s, _FLUSH_POLL_S), return_when="FIRST_COMPLETED")

    def _take_written(self, write: _Write, size: Future[int]) -> None:
        try:
            nbytes = size.result()
        except OSError as error:
            self._disk.write_failed(error, self._index.stored_bytes)
            self._index.note_unstored(write.node)
            self._index.evict_stored(self._disk.max_bytes)
            self.delete_dropped()
            return
        info = write.info
        if write.node.parent is None or write.node.key != info.key:
            self._disk.delete(info.key)
            return
        if write.node.key in self._index.changed:
            return  # it has become more than what was written, and will be written again
        write.node.is_checkpoint = info.is_checkpoint
        stored = Stored(key=info.key, start=info.start, end=info.end, nbytes=nbytes)
        self._disk.note_size(info, nbytes)
        for node in self._index.path(write.node):
            if node.start >= info.start and node.stored is None:
                self._index.set_stored(node, stored)
                self._index.changed.pop(node.key, None)
        self._index.evict_stored(self._disk.max_bytes)
        self.delete_dropped()

    def delete_dropped(self) -> None:
        """Remove the files that nothing in the tree needs any more."""
        for stored in self._index.dropped:
            if stored.key not in self._running:
                self._disk.delete(stored.key)
        self._index.dropped.clear()

    def go_on(self, *, is_idle: bool) -> None:
        """Hand new segments to the writer, as far as it keeps up, and not too much between two steps: those of main
        conversations, and the others when the engine is idle, if they are still there then."""
        self.delete_dropped()
        if is_idle:
            self._index.changed.update(_there(self._later))
            self._later.clear()
        else:
            self._put_off()
        left_bytes = self._left_bytes()
        while left_bytes > 0:
            write = next((write for write in self._running.values() if write.size is None), None)
            if write is None and (write := self._begin_write()) is None:
                return
            left_bytes -= self._hand_over(write)

    def _left_bytes(self) -> int:
        """What may be copied now."""
        unwritten = sum(write.writing.unwritten_bytes for write in self._running.values())
        return min(_STEP_BYTES, _MAX_UNWRITTEN_BYTES - unwritten)

    def _put_off(self) -> None:
        for key, node in list(self._index.changed.items()):
            if node.weight < MAIN_WEIGHT:
                self._later[key] = self._index.changed.pop(key)
        if len(self._later) > self._most_later:
            self._later = _there(self._later)
            self._most_later = 2 * len(self._later) + _LATER_NODES

    @staticmethod
    def _hand_over(write: _Write) -> int:
        """The next piece of a file, or its end. Bytes handed over."""
        piece = next(write.pieces, None)
        if piece is None:
            write.size = write.writing.end()
            return 0
        write.writing.add(piece)
        return len(piece)

    def _begin_write(self) -> _Write | None:
        """Of the segments that are new, one whose parent has a file."""
        if not self._disk.is_writable:
            return None
        for key, node in list(self._index.changed.items()):
            segment, parent = node.payload, node.parent
            assert segment is not None
            assert parent is not None
            if key in self._running or (parent.parent is not None and parent.key in self._index.changed):
                continue  # later: after what is being written of it, and after its parent
            del self._index.changed[key]
            parent_file = self._file_of(parent)
            if parent_file is None or not can_store(segment):
                continue
            info = FileInfo(
                key=key,
                parent=parent_file,
                seed=self._index.seed_of(node),
                start=node.start,
                tokens=node.tokens,
                is_checkpoint=segment.is_checkpoint,
                answers=node.answers,
                marks=dict(node.marks),
            )
            export = Export(segment, info, is_packed=self._is_packed)
            write = _Write(node=node, info=info, pieces=export.pieces(), writing=self._disk.write(export.shape))
            self._running[key] = write
            return write
        return None

    def _file_of(self, node: Node[Segment]) -> bytes | None:
        """The file that holds the end of `node`, or will: empty for a root, None when there is none."""
        if node.parent is None:
            return b""
        if node.stored is not None:
            return node.stored.key
        return node.key if node.key in self._running else None

    def adopt(self) -> list[Spelling]:
        """Hang what earlier processes stored into the tree. A file whose parent is missing is of no use. Gives the
        answers that the files list, the latest last."""
        nodes: dict[bytes, Node[Segment]] = {}
        infos = self._disk.scan()
        for info in infos:
            node = self._adopted(info, nodes)
            if node is None:
                self._disk.delete(info.key)
            else:
                nodes[info.key] = node
                self._disk.note_size(info, info.nbytes)
                node.marks.update({tag: at for tag, at in info.marks.items() if node.start < at <= node.end})
        latest_last = sorted((info for info in infos if info.key in nodes), key=lambda info: info.used_s)
        learnt = [spelling_of(span, nodes[info.key]) for info in latest_last for span in info.answers]
        self._index.evict_stored(self._disk.max_bytes)
        self.delete_dropped()
        if nodes:
            log.info("found %d stored prefixes, %d MB", len(nodes), self._index.stored_bytes >> 20)
        return learnt

    def take_in(self, infos: Iterable[FileInfo]) -> None:
        """Hang files into the tree that came from another host, parents before children. One whose parent is not here
        is of no use."""
        for info in infos:
            nodes = {info.parent: parent} if (parent := self._parent_of(info)) is not None else {}
            node = self._adopted(info, nodes)
            if node is None:
                self._disk.delete(info.key)
                continue
            node.marks.update({tag: at for tag, at in info.marks.items() if node.start < at <= node.end})
            node.is_checkpoint = node.is_checkpoint or info.is_checkpoint
            if node.stored is None:  # it was computed meanwhile, or its copy was damaged
                self._index.set_stored(node, Stored(key=info.key, start=info.start, end=info.end, nbytes=info.nbytes))
                self._index.changed.pop(node.key, None)
        self._index.evict_stored(self._disk.max_bytes)
        self.delete_dropped()

    def _parent_of(self, info: FileInfo) -> Node[Segment] | None:
        """The node that ends where the file begins, or can be cut there."""
        if not info.parent:
            return None
        for node in self._index.nodes():
            is_cut = self._index.is_divisible or node.payload is None or node.end == info.start
            if node.start < info.start <= node.end and is_cut and self._leads_to(node, info):
                return node
        return None

    @staticmethod
    def _leads_to(node: Node[Segment], info: FileInfo) -> bool:
        """Whether the file's tokens follow those that lead to its start here: then its key is made of them."""
        assert node.parent is not None
        above: Node[Segment] = Node(node.parent, slice_tokens(node.tokens, 0, info.start - node.start))
        return Node(above, info.tokens).key == info.key

    def _adopted(self, info: FileInfo, nodes: Mapping[bytes, Node[Segment]]) -> Node[Segment] | None:
        parent = nodes.get(info.parent) if info.parent else self._index.root_of(info.seed)
        if parent is None or not parent.end >= info.start:
            return None
        stored = Stored(key=info.key, start=info.start, end=info.end, nbytes=info.nbytes)
        if info.parent:
            parent = self._index.cut(parent, info.start)
        return self._index.adopt(parent, info.tokens, stored, is_checkpoint=info.is_checkpoint, answers=info.answers)
