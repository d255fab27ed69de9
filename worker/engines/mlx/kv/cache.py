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

Tokens lie in buffers, which segments name and do not own (`buffers`). Windows and states are compact copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from worker.engines.mlx.kv.buffers import Buffer, Part, Run, lend
from worker.engines.mlx.kv.classes import Kind, Pair, class_of, leaf_arrays, leaf_bytes, leaves, nested


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

    @property
    def has_tokens(self) -> bool:
        return "tokens" in self.kinds

    def of_kind(self, kind: Kind, entries: Sequence[Any]) -> list[Any]:
        """Of entries that stand for the leaves, those of this kind."""
        return [entry for each, entry in zip(self.kinds, entries, strict=True) if each == kind]

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
    """What was computed for `length` tokens. Where there is one entry per leaf, it is in the layout's order.

    `run` names what `tokens` leaves hold, where the layout has any. `pairs[i]` holds the last tokens of a `window`
    leaf; `states[i]` is a copy of a `state` leaf as it stood at the segment's end, or None. Made by `build_segment`.
    """

    layout: Layout
    length: int
    run: Run | None
    pairs: tuple[Pair | None, ...]
    states: tuple[Any, ...]
    nbytes: int
    arrays: int  # those of windows and states; what tokens lie in is counted where it is
    thin_bytes: int
    is_checkpoint: bool

    @property
    def is_held(self) -> bool:
        """Whether dropping it would free nothing now: a running sequence uses its buffer."""
        return self.run is not None and self.run.is_lent

    def thin(self) -> Segment:
        """The same without its states: still a link to what comes after it, no longer a place to resume."""
        return build_segment(self.layout, self.length, self.run, self.pairs, (None,) * len(self.states))

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
            tails.append(_slice_pair(pair, max(head, held - window), held))
        mx.eval(heads, tails)
        first, rest = (None, None) if self.run is None else self.run.split(self.run.start + at)
        upper = build_segment(self.layout, at, first, tuple(heads), (None,) * len(self.states))
        return upper, build_segment(self.layout, after, rest, tuple(tails), self.states)

    def enriched(self, other: Segment) -> Segment:
        """The better parts of two segments of the same tokens: longer windows, present states."""
        pairs = tuple(_longer(mine, theirs) for mine, theirs in zip(self.pairs, other.pairs, strict=True))
        states = tuple(theirs if mine is None else mine for mine, theirs in zip(self.states, other.states, strict=True))
        return build_segment(self.layout, self.length, self.run, pairs, states)


def build_segment(
    layout: Layout, length: int, run: Run | None, pairs: tuple[Pair | None, ...], states: tuple[Any, ...]
) -> Segment:
    state_bytes = sum(leaf_bytes(state) for state in states if state is not None)
    pair_bytes = sum(keys.nbytes + values.nbytes for keys, values in filter(None, pairs))
    return Segment(
        layout=layout,
        length=length,
        run=run,
        pairs=pairs,
        states=states,
        nbytes=state_bytes + pair_bytes + (0 if run is None else run.nbytes),
        arrays=2 * sum(pair is not None for pair in pairs)
        + sum(leaf_arrays(state) for state in states if state is not None),
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


def capture(
    layout: Layout, cache: Sequence[Any], *, start: int, end: int, depth: int, buffer: Buffer | None
) -> Segment:
    """A segment for tokens `start..end` of a single sequence's cache that now holds `depth` tokens.

    Its tokens are named where they lie when `buffer` is lent to this cache, else copied. Its states are captured only
    when `end` is where the cache stands.
    """
    flat = leaves(cache)
    pairs: list[Pair | None] = []
    states: list[Any] = []
    for kind, window, leaf in zip(layout.kinds, layout.windows, flat, strict=True):
        is_windowed = kind == "window"
        pairs.append(_capture_pair(leaf, max(start, end - window), end, depth) if is_windowed else None)
        states.append(class_of(leaf).copied(leaf) if kind == "state" and end == depth else None)
    mx.eval(pairs, [state.state for state in states if state is not None])
    run = _capture_run(layout.of_kind("tokens", flat), start, end, depth, buffer) if layout.has_tokens else None
    return build_segment(layout, end - start, run, tuple(pairs), tuple(states))


def _capture_run(held: Sequence[Any], start: int, end: int, depth: int, buffer: Buffer | None) -> Run:
    if buffer is None or not buffer.is_of(held[0]):
        buffer = Buffer.of_arrays([_capture_pair(leaf, start, end, depth) for leaf in held], start=start)
    return Run([Part(buffer, start, end)])


def _capture_pair(leaf: Any, start: int, end: int, depth: int) -> Pair:
    """Tokens `start..end` of a cache at `depth`, oldest first, or as many of the last as it still holds."""
    held = class_of(leaf).held(leaf)
    first = depth - held[0].shape[2]  # the oldest token held
    return _slice_pair(held, max(start, first) - first, max(end, first) - first)


def can_restore(layout: Layout, segments: Sequence[Segment], depth: int) -> bool:
    """Whether the segments that lead to `depth` hold all that a cache of `depth` tokens needs."""
    if layout.is_divisible:
        return True
    last = layout.of_kind("state", segments[-1].states)
    if sum(segment.length for segment in segments) != depth or None in last:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A running cache; the buffer lent to it, where the layout has tokens; and buffers that had to be made for others
    that use it."""

    cache: list[Any]
    buffer: Buffer | None
    made: list[Buffer]


def restore(model: Any, layout: Layout, segments: Sequence[Segment], *, depth: int, needed: int, room: int) -> Restored:
    """A running cache of `depth` tokens out of the segments that lead there. Its `tokens` leaves have room for
    `needed`, or for `room` where that has to be made."""
    cache: list[Any] = make_prompt_cache(model)
    flat = leaves(cache)
    buffer: Buffer | None = None
    made: list[Buffer] = []
    if layout.has_tokens:
        runs = [segment.run for segment in segments if segment.run is not None]
        buffer, made = lend(layout.of_kind("tokens", flat), runs, depth=depth, needed=needed, room=room)
        lent = iter(buffer.leaves)
        flat = [next(lent) if kind == "tokens" else leaf for kind, leaf in zip(layout.kinds, flat, strict=True)]
    if depth and not layout.is_divisible:
        assert sum(segment.length for segment in segments) == depth
        _restore_rest(layout, flat, segments, depth)
    return Restored(cache=nested(cache, iter(flat)), buffer=buffer, made=made)


def _restore_rest(layout: Layout, flat: list[Any], segments: Sequence[Segment], depth: int) -> None:
    """Windows and states, which lie at the end of what leads there."""
    for index, (kind, window) in enumerate(zip(layout.kinds, layout.windows, strict=True)):
        if kind == "window":
            _restore_window(flat[index], [segment.pairs[index] for segment in segments], depth, window)
        elif kind == "state":
            state = segments[-1].states[index]
            flat[index] = class_of(state).copied(state)
    mx.eval([leaf.state for kind, leaf in zip(layout.kinds, flat, strict=True) if kind != "tokens"])


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
