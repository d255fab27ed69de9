"""Prompts on their way into the cache: which is next, in what pieces, and what of it is kept.

What a chunk computed goes to the prefix cache as soon as a boundary is passed. A prompt that shares a boundary with
one being prefilled waits for it instead of computing the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import mlx.core as mx

from shared.cache_size import CacheSize
from shared.config import Settings
from shared.pieces import session_digest
from shared.request import PRIORITIES, Priority
from worker.engines.mlx.decode.batch import last_pass_tokens, prefill, prefill_last
from worker.engines.mlx.kv.buffers import roomy
from worker.engines.mlx.kv.cache import Layout, Segment, capture
from worker.engines.mlx.kv.classes import STEP_TOKENS
from worker.engines.mlx.kv.lease import Lease
from worker.engines.mlx.kv.peer_files import PeerFiles
from worker.engines.mlx.kv.store import PrefixStore
from worker.engines.mlx.memory.room import Room
from worker.engines.mlx.prefill.meter import PrefillMeter
from worker.engines.mlx.prefill.scheduler import Candidate, DecodeShare, chunk_tokens, owes_share, pick
from worker.engines.mlx.prefill.sequence import Sequence
from worker.engines.mlx.prefill.stops import LEAST_SPACING_TOKENS, parting, stops_of
from worker.engines.mlx.prefill.vision import Vision
from worker.prefix_cache.node import MAIN_WEIGHT
from worker.prefix_cache.tokens import common_tokens

log = logging.getLogger(__name__)

_KEEP_WEIGHT: dict[Priority, float] = {"interactive": MAIN_WEIGHT, "subagent": 0.5, "side": 0.25, "batch": 0.5}
_LEAST_SHARED_TOKENS = 64  # fewer are computed sooner than waited for
PIECE_TOKENS = 2048  # of a prompt, at most, that are kept as one
_EXPECTED_ANSWER_TOKENS = 512  # for which room is made before a prompt is begun


class Prefiller:
    """Belongs to the engine thread."""

    def __init__(
        self,
        model: Any,
        layout: Layout,
        store: PrefixStore,
        meter: PrefillMeter,
        settings: Settings,
        *,
        size: CacheSize,
        room: Room,
        vision: Vision | None = None,
        peer_files: PeerFiles | None = None,
    ) -> None:
        self._peer_files = peer_files
        self._vision = vision
        self._model = model
        self._layout = layout
        self._store = store
        self._meter = meter
        self._share = DecodeShare()
        self._last_class: Priority = PRIORITIES[-1]  # of the last chunk's prompt
        self._settings = settings
        self._size = size
        self._room = room
        self._last_pass_tokens = last_pass_tokens(layout)
        self.computed_tokens = dict.fromkeys(("new", "tools", "system", "message", "prompt"), 0)  # by why they were

    # -- which ----------------------------------------------------------------------------------------------------

    def is_due(self, decoded_s: float, sequences: Iterable[Sequence]) -> bool:
        """Whether prompts may have the device again, after a decode step that took `decoded_s`; 0 when nothing is
        decoded here."""
        self._share.step(decoded_s)
        if self._share.is_paid or not decoded_s:
            return True
        return not owes_share(self._last_class, (each.request.priority for each in sequences if each.is_decoding))

    def pick(self, waiting: Collection[Sequence], *, is_decoding: bool) -> Sequence | None:
        """The prompt to go on with. None when all wait: for what another is about to compute, or for memory."""
        now_s = time.monotonic()
        begun = [sequence for sequence in waiting if sequence.lease is not None]
        candidates = {}
        for sequence in waiting:
            if self._is_awaiting(sequence):
                continue
            if sequence.fetching is not None and self._store.is_fetching(sequence.fetching):
                continue
            if self._vision is not None and sequence.lease is not None and not self._vision.is_ready(sequence):
                continue
            depth = self.depth(sequence)
            if sequence.lease is None and any(self._will_give(other, sequence, depth) for other in begun):
                continue
            candidates[sequence.key] = Candidate(
                key=sequence.key,
                priority=sequence.request.priority,
                depth=depth,
                uncached_tokens=sequence.total - depth,
                waited_s=now_s - sequence.submitted_s,
            )
        by_key = {sequence.key: sequence for sequence in waiting}
        while (chosen := pick(candidates.values(), self._meter)) is not None:
            sequence = by_key[chosen.key]
            if sequence.lease is not None or self._has_room(sequence, is_alone=not begun and not is_decoding):
                return sequence
            candidates = {key: c for key, c in candidates.items() if by_key[key].lease is not None}
        return None

    def _is_awaiting(self, sequence: Sequence) -> bool:
        """Whether it waits for what comes from another host."""
        awaited = sequence.awaited
        if awaited is None or self._peer_files is None:
            return False
        if not self._peer_files.is_awaited(awaited):
            sequence.awaited = None
            return False
        if not awaited.arrival.is_from_end:
            return True
        position = self.depth(sequence)
        if not self._peer_files.has_met(awaited, position):
            return self._peer_files.holds_up(awaited, position)
        if sequence.lease is not None:
            self.keep_all(sequence)
        self._peer_files.take_in(awaited)
        sequence.awaited = None
        if sequence.lease is not None and self._store.peek(sequence.request.tenant, sequence.packed) > position:
            self._begin_anew(sequence, sequence.lease)
        return False

    def _begin_anew(self, sequence: Sequence, lease: Lease) -> None:
        """More is known than was computed."""
        self.computed_tokens[_why(sequence)] -= sequence.total - sequence.position
        sequence.own_tokens += sequence.position - lease.depth
        self._store.close(lease)
        sequence.interrupt()
        sequence.has_met = not (sequence.is_resumed or sequence.generated)  # else its usage was told

    def waiting_s(self, waiting: Iterable[Sequence]) -> tuple[float, ...]:
        """Predicted prefill of these, by class; nothing while no prefill was measured."""
        if not self._meter.cost.is_known:
            return ()
        by_class = dict.fromkeys(PRIORITIES, 0.0)
        for sequence in waiting:
            by_class[sequence.request.priority] += self._meter.predict_s(self.depth(sequence), sequence.total)
        return tuple(by_class.values())

    def depth(self, sequence: Sequence) -> int:
        """How many tokens of the sequence need not be computed any more."""
        if sequence.lease is not None:
            return sequence.position
        version, depth = sequence.peeked
        if version != self._store.version:
            depth = self._store.peek(sequence.request.tenant, sequence.packed)
            sequence.peeked = (self._store.version, depth)
        return depth

    def _will_give(self, other: Sequence, sequence: Sequence, depth: int) -> bool:
        """Whether `other`, which is being prefilled, will soon have kept more of this prompt than is known now."""
        if other.request.tenant != sequence.request.tenant:
            return False
        common = min(common_tokens(other.packed, sequence.packed), sequence.total - 1)
        kept = max((stop for stop in other.stops if stop <= common), default=0)
        least = max(self._settings.cache_min_reuse_tokens, depth + _LEAST_SHARED_TOKENS)
        return kept >= least and other.position < kept

    def _has_room(self, sequence: Sequence, *, is_alone: bool) -> bool:
        """Whether the sequence's cache fits, after evicting kept prefixes if need be."""
        weight = _KEEP_WEIGHT[sequence.request.priority]
        wanted_bytes = self._size.predict(self.expected_tokens(sequence))
        with self._store.spared(sequence.request.tenant, sequence.packed) as spared_bytes:
            return self._room.make(max(0, wanted_bytes - spared_bytes), weight=weight, is_alone=is_alone)

    @staticmethod
    def held_tokens(sequence: Sequence) -> int:
        """Tokens that its cache has space for already."""
        buffer = sequence.lease.buffer if sequence.lease is not None else None
        return max(sequence.position, buffer.room if buffer is not None else 0)

    def _room_tokens(self, sequence: Sequence) -> int:
        """Tokens to make space for in its cache: where memory is not short also for its next turns, because what has
        no space left is copied whole."""
        least = self.expected_tokens(sequence)
        more_bytes = (roomy(least) - self.held_tokens(sequence)) * self._size.token_bytes
        return roomy(least) if more_bytes <= self._room.free_bytes // 2 else least

    def growth_bytes(self, sequences: Iterable[Sequence]) -> int:
        """What the caches of those that were begun may still grow by, expecting answers of ordinary length."""
        predict = self._size.predict
        begun = (sequence for sequence in sequences if sequence.lease is not None)
        return sum(
            max(0, predict(self.expected_tokens(sequence)) - predict(self.held_tokens(sequence))) for sequence in begun
        )

    @staticmethod
    def expected_tokens(sequence: Sequence) -> int:
        """Tokens that its cache will probably come to have space for; it grows in whole steps."""
        expected = min(sequence.longest, sequence.total + _EXPECTED_ANSWER_TOKENS)
        return -(-expected // STEP_TOKENS) * STEP_TOKENS

    # -- how ------------------------------------------------------------------------------------------------------

    def begin(self, sequence: Sequence) -> bool:
        """Look the prompt up, take over what is known of it, and decide what to keep of the rest. False when some of
        it has to be read from the disk first: then call again once `pick` gives the sequence again."""
        request, fetched = sequence.request, sequence.fetching
        lease = self._store.open(request.tenant, sequence.packed, weight=_KEEP_WEIGHT[request.priority])
        if fetched is not None:
            self._store.release(fetched)
            sequence.fetching = None
        if not self._store.is_ready(lease):
            self._store.fetch(lease)
            sequence.fetching = lease
            return False
        sequence.lease = lease
        lease.marks, lease.session = sequence.prompt.marks, session_digest(request.session)
        sequence.cache = self._store.restore(
            lease, needed=self.expected_tokens(sequence), room=self._room_tokens(sequence)
        )
        sequence.position = lease.depth
        sequence.stops = self._stops(sequence, lease)
        self._store.shrink(self._store.room_bytes, weight=lease.weight)
        if sequence.has_met or not sequence.is_started:
            sequence.cached_tokens = max(0, lease.depth - sequence.own_tokens)
            sequence.restored_tokens = min(fetched.restored, lease.depth) if fetched is not None else 0
        if not sequence.is_started and not sequence.has_met:
            sequence.parted = parting(sequence.prompt, lease.common) if lease.is_parted else ""
        sequence.has_met = False
        self._note(sequence, lease)
        return True

    def _stops(self, sequence: Sequence, lease: Lease) -> tuple[int, ...]:
        return stops_of(
            sequence.prompt,
            depth=lease.depth,
            parted=lease.common if lease.is_parted and not self._layout.is_divisible else None,
            spacing=LEAST_SPACING_TOKENS if self._layout.has_state else 0,
        )

    def _note(self, sequence: Sequence, lease: Lease) -> None:
        """Count and log what the cache gave, and where the prompt parted from what was kept. Counts only."""
        computed = sequence.total - lease.depth
        self.computed_tokens[_why(sequence)] += computed
        log.info(
            "request %s: %d of %d tokens cached (%d from disk), %d to compute%s",
            sequence.key,
            lease.depth,
            sequence.total,
            sequence.restored_tokens,
            computed,
            f"; differs in {sequence.parted}, after token {lease.common}" if sequence.parted else "",
        )

    def advance(self, sequence: Sequence, *, decode_step_s: float, is_decoding: bool) -> mx.array | None:
        """Compute one chunk; after the last one, the logits [1, vocab] from which the next token is sampled."""
        assert sequence.cache is not None
        end = sequence.total
        if not self._is_at_end(sequence):
            end = self._chunk_end(sequence, decode_step_s=decode_step_s, is_decoding=is_decoding)
        end = self._reach(sequence, end)
        if end == sequence.position:
            return None
        began_s = time.perf_counter()
        logits = self._pass(sequence, end)
        self._share.chunk(time.perf_counter() - began_s)
        self._last_class = sequence.request.priority
        return logits

    def _pass(self, sequence: Sequence, end: int) -> mx.array | None:
        """The chunk up to `end`, and the last pass where that is all that is left behind it."""
        assert sequence.cache is not None
        if end < sequence.total:
            with self._measured(sequence):
                self._compute_chunk(sequence, end)
                self._keep_passed(sequence)
            if not self._is_at_end(sequence) or self._reach(sequence, sequence.total) < sequence.total:
                return None
        with self._measured(sequence):
            rest = sequence.tokens[sequence.position :]
            with self._passing(sequence, sequence.total) as embeddings:
                logits = prefill_last(self._model, sequence.cache, rest, embeddings)
            sequence.position = sequence.total
            self._keep_passed(sequence)
        return logits

    @contextmanager
    def _measured(self, sequence: Sequence) -> Iterator[None]:
        """One pass, with what is done before a stream may go on: the block moves the sequence's position."""
        began, began_s = sequence.position, time.perf_counter()
        yield
        self._meter.observe(began, sequence.position, time.perf_counter() - began_s)

    def _chunk_end(self, sequence: Sequence, *, decode_step_s: float, is_decoding: bool) -> int:
        start = sequence.position
        size = chunk_tokens(
            self._meter,
            depth=start,
            is_decoding=is_decoding,
            decode_step_s=decode_step_s,
            stall_target_s=self._settings.decode_stall_target_ms / 1000,
            max_tokens=self._settings.prefill_step_tokens,
        )
        end = min(start + size, sequence.total - 1)
        if self._layout.has_state:
            end = min([end, *(stop for stop in sequence.stops if stop > start)])
        if sequence.awaited is not None and sequence.awaited.arrival.is_from_end:
            reach = sequence.awaited.arrival.compute_at(start)
            return start if reach is None else min(end, reach)
        return end

    def _compute_chunk(self, sequence: Sequence, end: int) -> None:
        assert sequence.cache is not None
        tokens = sequence.tokens[sequence.position : end]
        with self._passing(sequence, end) as embeddings:
            prefill(self._model, sequence.cache, tokens, embeddings)
        sequence.position = end
        assert sequence.lease is not None
        if sequence.lease.buffer is not None:
            sequence.lease.buffer.reserve(sequence.total, self._room_tokens(sequence))
        mx.clear_cache()

    def _reach(self, sequence: Sequence, end: int) -> int:
        return end if self._vision is None else self._vision.reach(sequence, end)

    def _passing(self, sequence: Sequence, end: int) -> AbstractContextManager[mx.array | None]:
        return nullcontext() if self._vision is None else self._vision.passing(sequence, sequence.position, end)

    def _is_at_end(self, sequence: Sequence) -> bool:
        """Whether the last pass, which gives the logits, is next."""
        if sequence.total - sequence.position > self._last_pass_tokens:
            return False
        return not (
            self._layout.has_state and any(sequence.position < stop < sequence.total for stop in sequence.stops)
        )

    # -- keeping --------------------------------------------------------------------------------------------------

    def _keep_passed(self, sequence: Sequence) -> None:
        """Keep what was computed up to the stops passed since the last time."""
        assert sequence.lease is not None
        passed = [stop for stop in sequence.stops if sequence.lease.kept < stop <= sequence.position]
        for stop in passed[-1:] if self._layout.is_divisible else passed:
            self._commit(sequence, sequence.lease, stop)

    def keep_all(self, sequence: Sequence) -> None:
        """Keep everything computed so far, wherever it stands."""
        assert sequence.lease is not None
        self._commit(sequence, sequence.lease, sequence.position)

    def _commit(self, sequence: Sequence, lease: Lease, end: int) -> None:
        """In pieces, where it can be cut: each becomes a file, which another host fetches whole or not at all."""
        ends = range(lease.kept + PIECE_TOKENS, end, PIECE_TOKENS) if self._layout.is_divisible else ()
        for piece_end in (*ends, end):
            self._store.commit(lease, sequence.packed, piece_end, lambda a, b: self._capture(sequence, a, b))

    def _capture(self, sequence: Sequence, start: int, end: int) -> Segment:
        assert sequence.cache is not None
        assert sequence.lease is not None
        buffer = sequence.lease.buffer
        return capture(self._layout, sequence.cache, start=start, end=end, depth=sequence.position, buffer=buffer)


def _why(sequence: Sequence) -> str:
    """Its tokens are computed."""
    return sequence.parted.partition(" ")[0] or "new"
