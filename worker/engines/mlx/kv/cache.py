"""What a model's cache layers hold, cut into segments that the prefix cache keeps and puts together again.

mlx-lm gives every layer its own cache object. For keeping, only three kinds differ:

tokens   `KVCache`: one key and value per token. Can be cut anywhere.
window   `RotatingKVCache`, `ChunkedKVCache`: only the last `max_size` tokens, or those of a chunk, matter. A segment
         keeps so many of its last tokens at most; what a later segment needs beyond its own start, it finds at the end
         of the one before.
state    everything else (recurrent states, caches of unknown classes): one opaque value at one depth. A segment keeps
         the value at its end, if a forward pass ended there.

So a model of `tokens` layers resumes at any depth, any other model only at checkpoints: ends of segments that were
captured while the running cache stood there.

mlx arrays are values: an in-place write to a shared array copies it first. Segments own compact copies of their
tokens (bytes = tokens times bytes per token), so that dropping one really frees its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from worker.engines.mlx.kv.classes import STEP_TOKENS, Kind, Pair, class_of, leaf_bytes, leaves, nested


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The kinds of a model's cache leaves; `windows` has each leaf's window, 0 where it has none. `unknown` names the
    classes among them of which nothing is known: kept as states, in memory only."""

    kinds: tuple[Kind, ...]
    windows: tuple[int, ...]
    can_batch: bool
    unknown: frozenset[str] = frozenset()

    @property
    def is_divisible(self) -> bool:
        return all(kind == "tokens" for kind in self.kinds)

    @property
    def has_state(self) -> bool:
        return "state" in self.kinds

    @classmethod
    def of(cls, model: Any) -> Layout:
        flat = leaves(make_prompt_cache(model))
        return cls(
            kinds=tuple(class_of(leaf).kind for leaf in flat),
            windows=tuple(class_of(leaf).window(leaf) for leaf in flat),
            can_batch=all(class_of(leaf).is_batched for leaf in flat),
            unknown=frozenset(type(leaf).__name__ for leaf in flat if not class_of(leaf).is_known),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What was computed for `length` tokens. One entry per leaf of the layout, in its order.

    `pairs[i]` holds the last tokens of a `tokens` leaf (all of them) or a `window` leaf; `states[i]` is a copy of a
    `state` leaf as it stood at the segment's end, or None. Made by `build_segment`.
    """

    layout: Layout
    length: int
    pairs: tuple[Pair | None, ...]
    states: tuple[Any, ...]
    nbytes: int
    thin_bytes: int
    is_checkpoint: bool

    def states_of(self, kind: Kind) -> list[Any]:
        return [state for leaf, state in zip(self.layout.kinds, self.states, strict=True) if leaf == kind]

    def thin(self) -> Segment:
        """The same without its states: still a link to what comes after it, no longer a place to resume."""
        return build_segment(self.layout, self.length, self.pairs, (None,) * len(self.states))

    def split(self, at: int) -> tuple[Segment, Segment]:
        """The first `at` tokens and the rest. Windows and states end up where they lead: mostly in the rest."""
        after = self.length - at
        heads: list[Pair | None] = []
        tails: list[Pair | None] = []
        for pair, window in zip(self.pairs, self.layout.windows, strict=True):
            if pair is None:
                heads.append(None)
                tails.append(None)
                continue
            held = pair[0].shape[2]
            head = max(0, held - after)  # tokens of the first part that are held
            heads.append(_slice_pair(pair, 0, head))
            tails.append(_slice_pair(pair, max(head, held - window) if window else head, held))
        mx.eval(heads, tails)
        first = build_segment(self.layout, at, tuple(heads), (None,) * len(self.states))
        return first, build_segment(self.layout, after, tuple(tails), self.states)

    def enriched(self, other: Segment) -> Segment:
        """The better parts of two segments of the same tokens: longer windows, present states."""
        pairs = tuple(_longer(mine, theirs) for mine, theirs in zip(self.pairs, other.pairs, strict=True))
        states = tuple(theirs if mine is None else mine for mine, theirs in zip(self.states, other.states, strict=True))
        return build_segment(self.layout, self.length, pairs, states)


def build_segment(layout: Layout, length: int, pairs: tuple[Pair | None, ...], states: tuple[Any, ...]) -> Segment:
    state_bytes = sum(leaf_bytes(state) for state in states if state is not None)
    return Segment(
        layout=layout,
        length=length,
        pairs=pairs,
        states=states,
        nbytes=state_bytes + sum(keys.nbytes + values.nbytes for keys, values in filter(None, pairs)),
        thin_bytes=state_bytes,
        is_checkpoint=all(
            _is_resumable(kind, window, length, pair, state)
            for kind, window, pair, state in zip(layout.kinds, layout.windows, pairs, states, strict=True)
        ),
    )


def _is_resumable(kind: Kind, window: int, length: int, pair: Pair | None, state: Any) -> bool:
    if kind == "state":
        return state is not None
    return kind == "tokens" or (pair is not None and pair[0].shape[2] >= min(length, window))


def _longer(mine: Pair | None, theirs: Pair | None) -> Pair | None:
    if mine is None or theirs is None:
        return mine or theirs
    return theirs if theirs[0].shape[2] > mine[0].shape[2] else mine


def _slice_pair(pair: Pair, start: int, end: int) -> Pair:
    keys, values = pair
    return mx.contiguous(keys[:, :, start:end]), mx.contiguous(values[:, :, start:end])


def capture(layout: Layout, cache: Sequence[Any], *, start: int, end: int, depth: int) -> Segment:
    """A segment for tokens `start..end` of a single sequence's cache that now holds `depth` tokens.

    Its states are captured only when `end` is where the cache stands.
    """
    pairs: list[Pair | None] = []
    states: list[Any] = []
    for kind, window, leaf in zip(layout.kinds, layout.windows, leaves(cache), strict=True):
        pairs.append(None)
        states.append(None)
        if kind == "state":
            states[-1] = class_of(leaf).copied(leaf) if end == depth else None
        else:
            pairs[-1] = _capture_pair(leaf, max(start, end - window) if window else start, end, depth)
    mx.eval(pairs, [state.state for state in states if state is not None])
    return build_segment(layout, end - start, tuple(pairs), tuple(states))


def _capture_pair(leaf: Any, start: int, end: int, depth: int) -> Pair:
    """Tokens `start..end` of a cache at `depth`, oldest first, or as many of the last as it still holds."""
    held = class_of(leaf).held(leaf)
    first = depth - held[0].shape[2]  # the oldest token held
    return _slice_pair(held, max(start, first) - first, max(end, first) - first)


def can_restore(layout: Layout, segments: Sequence[Segment], depth: int) -> bool:
    """Whether the segments that lead to `depth` hold all that a cache of `depth` tokens needs."""
    if layout.is_divisible:
        return True
    if sum(segment.length for segment in segments) != depth or None in segments[-1].states_of("state"):
        return False
    for index, window in enumerate(layout.windows):
        missing = min(window, depth)
        for segment in reversed(segments):
            pair = segment.pairs[index]
            held = 0 if pair is None else int(pair[0].shape[2])
            missing -= held
            if held < segment.length:
                break
        if missing > 0:
            return False
    return True


def restore(model: Any, layout: Layout, segments: Sequence[Segment], *, depth: int, room: int) -> list[Any]:
    """A fresh cache of `depth` tokens out of the segments that lead there.

    `room` tokens of space follow in `tokens` leaves, so that the first pass need not copy everything again.
    """
    cache: list[Any] = make_prompt_cache(model)
    if depth == 0:
        return cache
    flat = leaves(cache)
    excess = sum(segment.length for segment in segments) - depth
    for index, (kind, window, leaf) in enumerate(zip(layout.kinds, layout.windows, flat, strict=True)):
        if kind == "tokens":
            _restore_tokens(leaf, [segment.pairs[index] for segment in segments], depth, room)
        elif kind == "window":
            assert excess == 0
            _restore_window(leaf, [segment.pairs[index] for segment in segments], depth, window)
        else:
            assert excess == 0
            flat[index] = class_of(segments[-1].states[index]).copied(segments[-1].states[index])
    mx.eval([leaf.state for leaf in flat])
    return nested(cache, iter(flat))


def _restore_tokens(leaf: Any, pairs: Sequence[Pair | None], depth: int, room: int) -> None:
    capacity = -(-(depth + room) // STEP_TOKENS) * STEP_TOKENS
    held = [pair for pair in pairs if pair is not None]
    keys, values = (_joined([pair[side] for pair in held], depth, capacity) for side in (0, 1))
    class_of(leaf).fill(leaf, (keys, values), depth, depth)


def _joined(arrays: Sequence[mx.array], depth: int, capacity: int) -> mx.array:
    excess = sum(array.shape[2] for array in arrays) - depth
    last = arrays[-1][:, :, : arrays[-1].shape[2] - excess]
    batch, heads, _, dim = last.shape
    return mx.concatenate([*arrays[:-1], last, mx.zeros((batch, heads, capacity - depth, dim), last.dtype)], axis=2)


def _restore_window(leaf: Any, pairs: Sequence[Pair | None], depth: int, window: int) -> None:
    wanted = min(depth, window)
    picked: list[Pair] = []
    missing = wanted
    for pair in reversed(pairs):
        assert pair is not None
        held = pair[0].shape[2]
        take = min(held, missing)
        if take:
            picked.append((pair[0][:, :, held - take :], pair[1][:, :, held - take :]))
        missing -= take
        if not missing:
            break
    assert missing == 0, "a checkpoint without its window"
    picked.reverse()
    keys, values = (mx.concatenate([pair[side] for pair in picked], axis=2) for side in (0, 1))
    class_of(leaf).fill(leaf, (keys, values), depth, wanted)
