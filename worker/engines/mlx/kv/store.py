"""The prefix cache of one model: cuts running caches into segments, and gives new sequences a head start.

Segments live in memory; with a disk tier every new one is also written to a file, and comes back from there when a
prompt needs it, after it left memory or the process was started anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from worker.engines.mlx.kv.cache import Layout, Segment, can_restore, restore
from worker.engines.mlx.kv.disk import DiskTier
from worker.engines.mlx.kv.segment_file import (
    DamagedFileError,
    FileInfo,
    RawSegment,
    can_store,
    export_segment,
    import_segment,
)
from worker.prefix_cache.index import Match, PrefixIndex
from worker.prefix_cache.node import Node, Stored
from worker.prefix_cache.tokens import count_tokens, slice_tokens

log = logging.getLogger(__name__)

MAIN_WEIGHT = 1.0  # of what belongs to a person's own conversation
_LAST_WRITES_S = 5.0
_MAX_UNWRITTEN_BYTES = 512 << 20  # of segments that wait for the disk and so cannot be freed


@dataclass(slots=True, kw_only=True)
class Lease:
    """A sequence's place in the cache.

    `depth` tokens of its prompt can be resumed, of the `common` ones that were known; `restored` of them have to come
    from the disk. `is_parted` says that what was known goes on differently after `common`. What the sequence computes
    is inserted from `kept` on, below `node`, which is pinned.
    """

    node: Node[Segment]
    depth: int
    kept: int
    common: int
    is_parted: bool
    restored: int
    weight: float


@dataclass(slots=True, kw_only=True)
class _Write:
    node: Node[Segment]
    info: FileInfo
    nbytes: int
    future: Future[int]


class PrefixStore:
    """Belongs to the engine thread. `slots` is how many main conversations, the latest, lesser requests never push
    out of memory."""

    def __init__(
        self,
        model: Any,
        layout: Layout,
        *,
        fingerprint: bytes,
        block_tokens: int,
        min_reuse_tokens: int,
        max_bytes: int,
        slots: int,
        recompute_s: Callable[[int, int], float],
        segment_bytes: Callable[[int], int],
        disk: DiskTier | None = None,
    ) -> None:
        """`segment_bytes(tokens)` is the most that keeping so many takes."""
        self._model = model
        self._layout = layout
        self._min_reuse_tokens = min_reuse_tokens
        self._slots = slots
        self._disk = disk
        self._writes: dict[bytes, _Write] = {}
        self._reads: dict[bytes, tuple[Stored, Future[RawSegment]]] = {}
        self.max_bytes = max_bytes
        self.budget_bytes = max_bytes  # what memory has room for at the moment, if that is less
        self._segment_bytes = segment_bytes
        self.index: PrefixIndex[Segment] = PrefixIndex(
            fingerprint=fingerprint,
            block_tokens=block_tokens,
            is_divisible=layout.is_divisible,
            recompute_s=recompute_s,
        )
        self._latest: list[Node[Segment]] = []  # ends of the main conversations, the latest last
        self.version = 0  # changes whenever a look-up could come out differently
        self.hits = 0
        self.misses = 0
        self.hit_tokens = 0
        self.restored_tokens = 0
        if disk is not None:
            self._adopt(disk)

    # -- look-up --------------------------------------------------------------------------------------------------

    def peek(self, tenant: str, packed: bytes) -> int:
        """How many tokens of this prompt need not be computed."""
        depth = self.index.match(tenant, packed, count_tokens(packed) - 1).depth
        return depth if depth >= self._min_reuse_tokens else 0

    def open(self, tenant: str, packed: bytes, *, weight: float) -> Lease:
        """Look a prompt up and pin what is known of it. At least one token is left to compute."""
        match = first = self.index.match(tenant, packed, count_tokens(packed) - 1)
        while match.depth and not self._is_usable(match):
            match.node.is_checkpoint = False
            match = self.index.match(tenant, packed, match.depth - 1)
        node, depth, kept = match.node, match.depth, self.index.attachment(match)
        if depth < self._min_reuse_tokens:
            node, depth, kept = self.index.root(tenant), 0, 0
        restored = sum(min(n.end, depth) - n.start for n in self.index.path(node) if n.payload is None)
        return Lease(
            node=self.index.pin(node),
            depth=depth,
            kept=kept,
            common=first.common,
            is_parted=first.is_parted and first.common >= self._min_reuse_tokens,
            restored=restored,
            weight=weight,
        )

    def _is_usable(self, match: Match[Segment]) -> bool:
        """Whether what is in memory suffices; what is on disk proves itself when it is read."""
        path = self.index.path(match.node)
        segments = [node.payload for node in path if node.payload is not None]
        if len(segments) < len(path) or self._files(match.node):
            return True
        return can_restore(self._layout, segments, match.depth)

    def _files(self, node: Node[Segment]) -> list[Stored]:
        """The stored copies without which the prefix down to `node` cannot be resumed."""
        path = self.index.path(node)
        files = {n.stored.key: n.stored for n in path if n.payload is None and n.stored is not None}
        payload, stored = node.payload, node.stored
        if payload is not None and not payload.is_checkpoint and node.is_checkpoint and stored is not None:
            files[stored.key] = stored
        return list(files.values())

    def restore(self, lease: Lease, *, room: int) -> list[Any]:
        """A running cache holding the first `lease.depth` tokens, with space for `room` more. The lease is ready."""
        segments = [node.payload for node in self.index.path(lease.node) if node.payload is not None]
        if lease.depth:
            self.hits += 1
            self.hit_tokens += lease.depth
            self.index.touch(lease.node)
        else:
            self.misses += 1
        return restore(self._model, self._layout, segments, depth=lease.depth, room=room)

    def close(self, lease: Lease) -> None:
        if lease.weight >= MAIN_WEIGHT:
            path = self.index.path(lease.node)
            others = [node for node in self._latest if node not in path and node.parent is not None]
            latest = [*others, *path[-1:]]
            self._latest = latest[max(0, len(latest) - self._slots) :]
        self.index.unpin(lease.node)

    # -- keeping --------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, packed: bytes, end: int, capture: Callable[[int, int], Segment]) -> None:
        """Keep tokens `lease.kept..end` of the sequence `packed`, if there is room or can be made; `capture(start,
        end)` cuts them out."""
        if end <= lease.kept or end < self._min_reuse_tokens:
            return
        before_bytes = self.room_bytes - self._segment_bytes(end - lease.kept)
        if before_bytes < 0:
            return
        if self.nbytes > before_bytes and not self._shrink(before_bytes, lease.weight, is_partial=False):
            return  # what is in use, or belongs to better conversations, leaves no room
        segment = capture(lease.kept, end)
        tokens = slice_tokens(packed, lease.kept, end)
        node = self.index.insert(lease.node, lease.kept, tokens, segment, weight=lease.weight)
        self.index.pin(node)
        self.index.unpin(lease.node)
        lease.node, lease.kept = node, end
        self._write_changed()
        self.shrink(self.room_bytes, weight=lease.weight)

    @property
    def room_bytes(self) -> int:
        """What may be held now."""
        return min(self.max_bytes, self.budget_bytes)

    def shrink(self, max_bytes: int, *, weight: float = MAIN_WEIGHT) -> int:
        """Evict until at most `max_bytes` are held in memory, or no more may go. Bytes freed. For a request of less
        than the main weight, the latest main conversations may not go, except to the disk."""
        return self._shrink(max_bytes, weight, is_partial=True)

    def _shrink(self, max_bytes: int, weight: float, *, is_partial: bool) -> int:
        """As `shrink`; but nothing goes, when not `is_partial`, where that would not be enough."""
        self.version += 1
        held = [node for node in self._latest if node.parent is not None] if weight < MAIN_WEIGHT else []
        for node in held:
            self.index.pin(node)
        freed = self.index.evict(max_bytes) if is_partial or self.index.fixed_bytes() <= max_bytes else 0
        for node in held:
            self.index.unpin(node)
        return freed

    @property
    def nbytes(self) -> int:
        return self.index.nbytes

    # -- disk -----------------------------------------------------------------------------------------------------

    def is_ready(self, lease: Lease) -> bool:
        """Whether all that the lease needs is in memory."""
        return not self._files(lease.node)

    def fetch(self, lease: Lease) -> None:
        """Start to read what the lease needs from the disk."""
        assert self._disk is not None
        for stored in self._files(lease.node):
            if stored.key not in self._reads:
                self._reads[stored.key] = (stored, self._disk.read(stored.key))

    def is_fetching(self, lease: Lease) -> bool:
        return any(stored.key in self._reads for stored in self._files(lease.node))

    def wait_for_disk(self, timeout_s: float) -> None:
        """Return when a read has ended, or after `timeout_s`."""
        wait([future for _, future in self._reads.values()], timeout_s, return_when="FIRST_COMPLETED")

    def collect(self) -> None:
        """Take in what the disk's threads have finished. Cheap when there is nothing."""
        if self._disk is None or not (self._reads or self._writes or self.index.changed):
            return
        for key, (stored, future) in list(self._reads.items()):
            if future.done():
                del self._reads[key]
                self._take_read(stored, future)
        for key, write in list(self._writes.items()):
            if write.future.done():
                del self._writes[key]
                self._take_written(self._disk, write)
        self._write_changed()

    def _take_read(self, stored: Stored, future: Future[RawSegment]) -> None:
        self.version += 1
        try:
            segment = import_segment(future.result(), self._layout)
        except DamagedFileError as error:
            log.warning("a prefix of %d tokens was lost: %s", stored.end, error)
            self.index.lose(stored)
        else:
            self.restored_tokens += stored.end - stored.start
            self.index.load(stored, segment)

    def _take_written(self, disk: DiskTier, write: _Write) -> None:
        try:
            nbytes = write.future.result()
        except OSError as error:
            disk.write_failed(error, self.index.stored_bytes)
            self.index.note_unstored(write.node)
            self.index.evict_stored(disk.max_bytes)
            self._delete_dropped(disk)
            return
        info = write.info
        if write.node.parent is None or write.node.key != info.key:
            disk.delete(info.key)
            return
        if write.node.key in self.index.changed:
            return  # it has become more than what was written, and will be written again
        write.node.is_checkpoint = info.is_checkpoint
        stored = Stored(key=info.key, start=info.start, end=info.end, nbytes=nbytes)
        for node in self.index.path(write.node):
            if node.start >= info.start and node.stored is None:
                self.index.set_stored(node, stored)
                self.index.changed.pop(node.key, None)
        self.index.evict_stored(disk.max_bytes)
        self._delete_dropped(disk)

    def _delete_dropped(self, disk: DiskTier) -> None:
        for stored in self.index.dropped:
            if stored.key not in self._writes:
                disk.delete(stored.key)
        self.index.dropped.clear()

    def _write_changed(self) -> None:
        """Hand new segments to the writer, as far as it keeps up."""
        if self._disk is None:
            self.index.changed.clear()
            return
        self._delete_dropped(self._disk)
        if not self._disk.is_writable:
            return
        unwritten = sum(write.nbytes for write in self._writes.values())
        for key, node in list(self.index.changed.items()):
            segment, parent = node.payload, node.parent
            assert segment is not None
            assert parent is not None
            if unwritten > _MAX_UNWRITTEN_BYTES:
                return
            if key in self._writes or (parent.parent is not None and parent.key in self.index.changed):
                continue  # later: after what is being written of it, and after its parent
            del self.index.changed[key]
            parent_file = self._file_of(parent)
            if parent_file is None or not can_store(segment):
                continue
            info = FileInfo(
                key=key,
                parent=parent_file,
                seed=self.index.seed_of(node),
                start=node.start,
                tokens=node.tokens,
                is_checkpoint=segment.is_checkpoint,
            )
            future = self._disk.write(export_segment(segment, info))
            self._writes[key] = _Write(node=node, info=info, nbytes=segment.nbytes, future=future)
            unwritten += segment.nbytes

    def _file_of(self, node: Node[Segment]) -> bytes | None:
        """The file that holds the end of `node`, or will: empty for a root, None when there is none."""
        if node.parent is None:
            return b""
        if node.stored is not None:
            return node.stored.key
        return node.key if node.key in self._writes else None

    def _adopt(self, disk: DiskTier) -> None:
        """Hang what earlier processes stored into the tree. A file whose parent is missing is of no use."""
        nodes: dict[bytes, Node[Segment]] = {}
        for info in disk.scan():
            parent = nodes.get(info.parent) if info.parent else self.index.root_of(info.seed)
            if parent is None or not parent.end >= info.start:
                disk.delete(info.key)
                continue
            stored = Stored(key=info.key, start=info.start, end=info.end, nbytes=info.nbytes)
            if info.parent:
                parent = self.index.cut(parent, info.start)
            node = self.index.adopt(parent, info.tokens, stored, is_checkpoint=info.is_checkpoint)
            if node is None:
                disk.delete(info.key)
            else:
                nodes[info.key] = node
        self.index.evict_stored(disk.max_bytes)
        self._delete_dropped(disk)
        if nodes:
            log.info("found %d stored prefixes, %d MB", len(nodes), self.index.stored_bytes >> 20)

    def flush(self, timeout_s: float) -> None:
        """Wait until everything kept is written, or `timeout_s` have passed."""
        until_s = time.monotonic() + timeout_s
        self.collect()
        while self._writes and (left_s := until_s - time.monotonic()) > 0:
            wait([write.future for write in self._writes.values()], left_s, return_when="FIRST_COMPLETED")
            self.collect()

    def shut_down(self) -> None:
        """Write what is left, for a moment at most, and end the disk's threads."""
        if self._disk is not None:
            self.flush(_LAST_WRITES_S)
            self._disk.close()
