"""The prefix cache of one model: cuts running caches into segments, and gives new sequences a head start.

Segments live in memory; with a disk tier every new one is also written to a file, and comes back from there when a
prompt needs it, after it left memory or the process was started anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakSet

from worker.cache_files.file_format import FileInfo
from worker.device.turns import Turn
from worker.engines.mlx.kv.answers import span_of
from worker.engines.mlx.kv.buffers import Buffer, movable
from worker.engines.mlx.kv.cache import Layout, Segment, can_restore, restore
from worker.engines.mlx.kv.disk import DiskTier
from worker.engines.mlx.kv.figures import store_figures
from worker.engines.mlx.kv.lease import Lease, kept_note
from worker.engines.mlx.kv.passing import MAX_BYTES, Passing
from worker.engines.mlx.kv.reads import Reads, files_needed
from worker.engines.mlx.kv.residents import ResidentsView
from worker.engines.mlx.kv.unwritten import Unwritten
from worker.engines.mlx.kv.writes import Writes
from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.marks import Residents, mark
from worker.prefix_cache.node import MAIN_WEIGHT, Match, Node, Stored
from worker.prefix_cache.outline import drop
from worker.prefix_cache.tokens import count_tokens, slice_tokens
from worker.prompt import Spelling

log = logging.getLogger(__name__)

_LAST_WRITES_S = 5.0
MAX_ARRAYS = 200_000  # Metal ends at 499,000 live buffers, those of weights and of running requests among them
_ARRAYS_STEP = 0.95  # of the bytes kept, when there are too many


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
        token_bytes: int,
        disk: DiskTier | None = None,
        is_packed: bool = False,
    ) -> None:
        """`segment_bytes(tokens)` is the most that keeping so many takes, `token_bytes` what each takes of buffers.
        `is_packed`: what is kept and not in use may be at 8 bits a number."""
        self._model = model
        self._layout = layout
        self._min_reuse_tokens = min_reuse_tokens
        self._block_tokens = block_tokens
        self._slots = slots
        self._disk = disk
        self._is_packed = is_packed
        self.max_arrays = MAX_ARRAYS
        self.max_bytes = self.budget_bytes = max_bytes  # the latter: what memory has room for at the moment, if less
        self._segment_bytes = segment_bytes
        self._token_bytes = token_bytes
        self.index: PrefixIndex[Segment] = PrefixIndex(
            fingerprint=fingerprint,
            block_tokens=block_tokens,
            is_divisible=layout.is_divisible,
            recompute_s=recompute_s,
        )
        self._passing = Passing(self.index)
        self._latest: list[Node[Segment]] = []  # ends of the main conversations, the latest last
        self._buffers: WeakSet[Buffer] = WeakSet()
        self._unwritten = Unwritten()
        self._returns = 0  # of buffers that were lent
        self._overhead_bytes: int | None = 0  # of the buffers beyond what the index counts; None when to be counted
        self.version = 0  # changes whenever a look-up could come out differently
        self._residents = ResidentsView(self.index)
        self.hits = self.misses = self.hit_tokens = 0
        self.unkept_tokens = 0  # for which the budget was too small
        self.kept_note = ""  # how much of the latest main conversation was kept, where that is not all
        self._writes = Writes(self.index, disk, is_packed=is_packed) if disk is not None else None
        self.learnt = self._writes.adopt() if self._writes is not None else []  # of answers before, the latest last
        self._reads = Reads(self.index, disk, layout) if disk is not None else None

    # -- look-up --------------------------------------------------------------------------------------------------

    def peek(self, tenant: str, packed: bytes) -> int:
        """How many tokens of this prompt need not be computed."""
        depth = self.index.match(tenant, packed, count_tokens(packed) - 1).depth
        return depth if depth >= self._min_reuse_tokens else 0

    @contextmanager
    def spared(self, tenant: str, packed: bytes) -> Iterator[int]:
        """The bytes of the running cache that a sequence would take over as it is. They do not go meanwhile."""
        match = self.index.match(tenant, packed, count_tokens(packed) - 1)
        runs = [node.payload.run for node in self.index.path(match.node) if node.payload is not None]
        buffer = movable([run for run in runs if run is not None], match.depth)
        if buffer is None or match.depth < self._min_reuse_tokens:
            yield 0
            return
        buffer.is_lent, self._overhead_bytes = True, None
        try:
            yield buffer.nbytes
        finally:
            buffer.is_lent, self._overhead_bytes = False, None

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
        return files_needed(self.index.path(node))

    def restore(self, lease: Lease, *, needed: int, room: int) -> list[Any]:
        """A running cache holding the first `lease.depth` tokens, with room for `needed` in all, or for `room` where
        that has to be made. The lease is ready."""
        segments = [node.payload for node in self.index.path(lease.node) if node.payload is not None]
        if lease.depth:
            self.hits += 1
            self.hit_tokens += lease.depth
            self.index.touch(lease.node)
        else:
            self.misses += 1
        restored = restore(self._model, self._layout, segments, depth=lease.depth, needed=needed, room=room)
        if restored.buffer is not None:
            lease.buffer = restored.buffer
            self._buffers.update([restored.buffer, *restored.made])
        self._changed()
        return restored.cache

    def give_back(self, lease: Lease) -> None:
        """The sequence's running cache is another now: what it kept is the store's alone, within its budget."""
        self._take_back(lease)
        path, root = self.index.path(lease.node), self.index.root_above(lease.node)
        self.index.unpin(lease.node)
        self.shrink(self.room_bytes, weight=lease.weight)
        left = [node for node in path if node.parent is not None]
        lease.node = self.index.pin(left[-1] if left else root)
        lease.kept = min(lease.kept, lease.node.end)

    def _lend_to_writer(self, lease: Lease) -> bool:
        """Whether what the sequence kept stays where it is until it is written, because there is no room for it."""
        if self._disk is None or self._writes is None or not self._disk.is_writable or lease.buffer is None:
            return False
        named = sum(part.end - part.start for part in lease.buffer.parts()) * self._token_bytes
        if self.nbytes + named <= self.room_bytes or not self._writes.is_unwritten(lease.node):
            return False
        self._unwritten.add(lease.buffer, lease.node, self._next_return(lease))
        lease.buffer = None
        return True

    def _next_return(self, lease: Lease) -> int:
        """When a buffer was last used, in order; 0 where that is no reason to keep what makes a next turn fast."""
        self._returns += 1
        return self._returns if lease.weight >= MAIN_WEIGHT else 0

    def _take_back_written(self, *, all_of_it: bool = False) -> None:
        """What was kept for the writer alone is at rest again, once that is done."""
        if self._unwritten.take_back((lambda _node: False) if all_of_it else self._is_unwritten):
            self._changed()

    def _is_unwritten(self, node: Node[Segment]) -> bool:
        return self._writes is not None and self._writes.is_unwritten(node)

    def _take_back(self, lease: Lease) -> None:
        if lease.buffer is not None:
            lease.buffer.give_back(self._next_return(lease))
            lease.buffer = None
            self._changed()

    def close(self, lease: Lease) -> None:
        """The sequence is over."""
        is_beyond = self._lend_to_writer(lease)
        if not is_beyond:
            self._take_back(lease)
            is_beyond = self._passing.leads_to(lease.node)
        if lease.weight >= MAIN_WEIGHT:
            path = self.index.path(lease.node)
            others = [node for node in self._latest if node not in path and node.parent is not None]
            latest = [*others, *path[-1:]]
            self._latest = latest[max(0, len(latest) - self._slots) :]
        root = self.index.root_above(lease.node)
        self.release(lease)
        self.shrink(self.room_bytes, weight=lease.weight)
        self._bound_arrays()
        self._tell_kept(root, lease, is_beyond=is_beyond)

    def _bound_arrays(self) -> None:
        """Short prefixes may be many long before they are large."""
        while self.arrays > self.max_arrays:
            if not self.shrink(int(self.nbytes * _ARRAYS_STEP)):
                return

    def _tell_kept(self, root: Node[Segment], lease: Lease, *, is_beyond: bool) -> None:
        """Nobody should have to guess why the next turn is computed again, or read back. `is_beyond`: what memory has
        no room for is there until it is written."""
        known = self.index.known(root, slice_tokens(lease.packed, 0, lease.computed))
        fitting = self.room_bytes // max(1, self._segment_bytes(1024) // 1024)
        kept = min(known, fitting) if is_beyond else known
        note = kept_note(kept, lease.computed, fitting, self.room_bytes, is_on_disk=known == lease.computed)
        if note:
            self.unkept_tokens += lease.computed - known
            log.warning("%s", note)
        if lease.weight >= MAIN_WEIGHT and lease.computed:
            self.kept_note = note

    def release(self, lease: Lease) -> None:
        """Another lease takes over."""
        if lease.is_fetching:
            self.index.release(lease.node)
        self.index.unpin(lease.node)

    def residents(self) -> Residents:
        """Which of the prefixes that others know by tags could be resumed: as of a second ago at the most."""
        return self._residents.look((self.version, self.index.stored_bytes))

    # -- keeping --------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, packed: bytes, end: int, capture: Callable[[int, int], Segment]) -> None:
        """Keep tokens `lease.kept..end` of the sequence `packed`, if there is room or can be made; `capture(start,
        end)` cuts them out."""
        if end <= lease.kept or end < self._min_reuse_tokens:
            return
        lease.computed, lease.packed = end, packed
        needed_bytes = self._segment_bytes(end - lease.kept)
        if lease.buffer is not None:
            needed_bytes -= (end - lease.kept) * self._token_bytes
        is_passing = False
        if not self._make_room(needed_bytes, lease.weight):
            fitting = self._fitting_end(lease, end)
            is_passing = fitting <= lease.kept and self._may_pass(lease, needed_bytes)
            end = end if is_passing else fitting
            fits = end > lease.kept and self._make_room((end - lease.kept) * self._token_bytes, lease.weight)
            if not (is_passing or fits):
                return
        start, before_bytes = lease.kept, self.index.nbytes
        segment = capture(start, end)
        if segment.run is not None:
            self._buffers.update(part.buffer for part in segment.run.parts)
        tokens = slice_tokens(packed, lease.kept, end)
        node = self.index.insert(lease.node, lease.kept, tokens, segment, weight=lease.weight)
        del segment  # what the index had already is named no longer
        self.index.pin(node)
        self.index.unpin(lease.node)
        lease.node, lease.kept = node, end
        if is_passing:
            self._passing.add(node, start, min(needed_bytes, self.index.nbytes - before_bytes))
        self.index.raise_weight(node, lease.weight)
        mark(self.index, node, lease.marks, lease.session)
        self._changed()
        if self._writes is None:
            self.index.changed.clear()
        self.shrink(self.room_bytes, weight=lease.weight)

    def note(self, lease: Lease, spelling: Spelling, *, start: int) -> None:
        """How the sequence's answer, which began at depth `start`, was spelt; after all of it was committed."""
        span = span_of(spelling, start=start, kept=lease.kept)
        if span is not None:
            self.index.note(lease.node, span)

    def _make_room(self, needed_bytes: int, weight: float) -> bool:
        """Whether so many bytes more may be held. Nothing goes when what is in use, or belongs to better conversations,
        leaves no room."""
        before_bytes = self.room_bytes - needed_bytes
        if before_bytes < 0:
            return False
        return self.nbytes <= before_bytes or self._shrink(before_bytes, weight, is_partial=False) > 0

    def _may_pass(self, lease: Lease, needed_bytes: int) -> bool:
        """Whether what the budget has no room for, but memory has, goes through it to the disk."""
        if self._disk is None or not self._disk.is_writable or lease.weight < MAIN_WEIGHT:
            return False
        passing_bytes = self._passing.nbytes + needed_bytes
        return passing_bytes <= MAX_BYTES and self.nbytes + passing_bytes <= self.budget_bytes

    def drop(self, keys: Collection[bytes]) -> int:
        """See `worker.prefix_cache.outline.drop`; with the files, and the memory."""
        dropped = drop(self.index, keys)
        if self._writes is not None:
            self._writes.delete_dropped()
        self._pack([buffer for buffer in self._buffers if not buffer.is_lent], 0)
        self._changed()
        return dropped

    def _fitting_end(self, lease: Lease, end: int) -> int:
        """The depth down to which what was computed may be kept: the end of the longest run of blocks that fits, where
        one can resume at any depth."""
        if not self._layout.is_divisible:
            return lease.kept
        fitting = (self.room_bytes - self.index.fixed_bytes()) // max(1, self._token_bytes)
        return min(end, lease.kept + max(0, fitting) // self._block_tokens * self._block_tokens)

    @property
    def room_bytes(self) -> int:
        """What may be held now."""
        return min(self.max_bytes, self.budget_bytes)

    def shrink(self, max_bytes: int, *, weight: float = MAIN_WEIGHT) -> int:
        """Evict until at most `max_bytes` are held in memory, or no more may go. Bytes freed. For a request of less
        than the main weight, the latest main conversations may not go, except to the disk."""
        if max_bytes < self.room_bytes:
            self._take_back_written(all_of_it=True)
        return self._shrink(max_bytes, weight, is_partial=True)

    def _shrink(self, max_bytes: int, weight: float, *, is_partial: bool) -> int:
        """As `shrink`; but nothing goes, when not `is_partial`, where that would not be enough."""
        before = self.nbytes
        if before <= max_bytes:
            return 0
        self._changed()
        held = [node for node in self._latest if node.parent is not None] if weight < MAIN_WEIGHT else []
        for node in held:
            self.index.pin(node)
        if is_partial or self.index.fixed_bytes() <= max_bytes:
            self._come_down(max_bytes)
        for node in held:
            self.index.unpin(node)
        self._overhead_bytes = None
        return before - self.nbytes

    def _come_down(self, max_bytes: int) -> None:
        """What makes a next turn fast goes first, of all but the latest main conversations; then what is least worth
        keeping of the others; then what makes the latest fast; and then anything."""
        resting = sorted((buffer for buffer in self._buffers if not buffer.is_lent), key=lambda buffer: buffer.used)
        hot = [buffer for buffer in resting if buffer.used][-self._slots :] if self._slots else []
        rest = [buffer for buffer in resting if buffer not in hot]
        self._pack(rest, max_bytes)
        self._squeeze(rest, max_bytes)
        hot_bytes = sum(buffer.nbytes for buffer in hot)
        if hot_bytes <= max_bytes:
            for buffer in hot:
                buffer.is_lent = True  # so that nothing of it goes
            self._evict(max_bytes - hot_bytes, rest)
            for buffer in hot:
                buffer.is_lent = False
            self._overhead_bytes = None
        self._pack(hot, max_bytes)
        self._squeeze(hot, max_bytes)
        self._evict(max_bytes, resting)

    def _evict(self, max_bytes: int, buffers: list[Buffer]) -> None:
        self._overhead_bytes = None
        while (excess := self.nbytes - max_bytes) > 0 and self.index.evict(self.index.nbytes - excess):
            self._overhead_bytes = None
            self._pack(buffers, max_bytes)

    def _pack(self, buffers: list[Buffer], max_bytes: int) -> None:
        for buffer in buffers:
            if self.nbytes <= max_bytes:
                return
            if buffer.overhead_bytes > 0:
                self._change(buffer, buffer.pack)

    def _squeeze(self, buffers: list[Buffer], max_bytes: int) -> None:
        for buffer in buffers if self._is_packed else ():
            if self.nbytes <= max_bytes:
                return
            self._change(buffer, buffer.squeeze)

    def _change(self, buffer: Buffer, change: Callable[[], None]) -> None:
        before = buffer.overhead_bytes
        change()
        self._overhead_bytes = (self._overhead_bytes or 0) + buffer.overhead_bytes - before

    @property
    def nbytes(self) -> int:
        """Of what is kept at rest. What running sequences have lent is theirs."""
        if self._overhead_bytes is None:
            self._overhead_bytes = sum(buffer.overhead_bytes for buffer in self._buffers)
        return self.index.nbytes + self._overhead_bytes - self._passing.nbytes

    @property
    def arrays(self) -> int:
        """How many of the device's buffers are kept, those lent to running sequences not counted."""
        return self.index.arrays + sum(buffer.arrays for buffer in self._buffers if not buffer.is_lent)

    def _changed(self) -> None:
        """A look-up could come out differently now, or other bytes be kept."""
        self.version += 1
        self._overhead_bytes = None

    @property
    def metrics(self) -> dict[str, float]:
        return store_figures(self, restored_tokens=self._reads.restored_tokens if self._reads is not None else 0)

    # -- disk -----------------------------------------------------------------------------------------------------

    def is_ready(self, lease: Lease) -> bool:
        """Whether all that the lease needs is in memory."""
        return not self._files(lease.node)

    def fetch(self, lease: Lease) -> None:
        """Start to read what the lease needs from the disk."""
        assert self._reads is not None
        lease.is_fetching = True
        self.index.hold(lease.node)
        self._reads.begin(self._files(lease.node))

    def is_fetching(self, lease: Lease) -> bool:
        return self._reads is not None and any(self._reads.has(stored) for stored in self._files(lease.node))

    def wait_for_disk(self, timeout_s: float) -> None:
        """Return when a read goes on, or after `timeout_s`."""
        if self._reads is not None and self._reads.is_busy:
            self._reads.wait(timeout_s)
        else:
            time.sleep(timeout_s)

    @property
    def has_copying(self) -> bool:
        """Whether `collect` would copy from the device or to it."""
        if self._writes is None:
            return False
        is_read = self._reads is not None and self._reads.has_copying
        return is_read or self._writes.has_copying or self._unwritten.has_written(self._is_unwritten)

    def collect(self, *, is_idle: bool = False) -> None:
        """Take in what the disk's threads have finished, and go on with what is under way, up to a step's share. Cheap
        when there is nothing."""
        if self._reads is not None and self._reads.is_busy:
            self._take_reads(self._reads)
        writes = self._writes
        if writes is None or not (writes.is_busy or self.index.changed or (is_idle and writes.has_later)):
            return
        writes.collect(is_idle=is_idle)
        is_writable = self._disk is not None and self._disk.is_writable
        has_passed = self._passing.end(lambda node: is_writable and writes.is_unwritten(node))
        if self._unwritten or has_passed:
            self._take_back_written()
            self._shrink(self.room_bytes, MAIN_WEIGHT, is_partial=True)

    def take_in(self, infos: Iterable[FileInfo]) -> None:
        """Files that came from another host are as good as our own."""
        if self._writes is not None:
            self._writes.take_in(infos)
            self._changed()

    def _take_reads(self, reads: Reads) -> None:
        self._changed()
        for segment in reads.go_on():
            if segment.run is not None:
                self._buffers.update(part.buffer for part in segment.run.parts)
        self._changed()

    def flush(self, timeout_s: float, turn: Turn = nullcontext) -> None:
        """Wait until everything kept is written, or `timeout_s` have passed. The device is copied from in turns, and is
        others' while the disk is waited for."""
        until_s = time.monotonic() + timeout_s
        self._collect_in(turn)
        while self._writes is not None and self._writes.is_busy and (left_s := until_s - time.monotonic()) > 0:
            self._writes.wait(left_s)
            self._collect_in(turn)

    def _collect_in(self, turn: Turn) -> None:
        with turn() if self.has_copying else nullcontext():
            self.collect(is_idle=True)

    def shut_down(self, turn: Turn = nullcontext) -> None:
        """Write what is left, for a moment at most, and end the disk's threads."""
        if self._disk is not None:
            self.flush(_LAST_WRITES_S, turn)
            if self._writes is not None:
                self._writes.delete_dropped()
            self._disk.close()
