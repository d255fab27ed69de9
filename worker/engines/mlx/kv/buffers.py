"""Whose the keys and values of full attention are: who may write to them, and who only reads.

A `Buffer` holds the keys and values of tokens in a row, in every `tokens` leaf of a model. A `Run` names tokens by
their depth and says which buffers hold them; segments hold runs, so cutting one moves no bytes. What is named never
changes and never moves without its run being told.

While a sequence is computed its buffer is lent: the leaves of its running cache are the buffer's own. mlx writes in
place as long as nothing else holds an array, so nobody else keeps one. The borrower writes behind what is named; others
read what is named at any time, by copying it. A buffer at rest that holds its tokens from the first one on can be lent
again, with all that it holds: so the turn that continues a conversation copies nothing.

At rest a buffer may also be packed: cut to what is named, and stacked into few arrays where that is little; and where
that is wanted it may be squeezed, to 8 bits a number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import mlx.core as mx

from worker.engines.mlx.kv.classes import STEP_TOKENS, Pair, class_of, empty_tokens_leaf
from worker.engines.mlx.kv.eight_bits import Packed

_ROOM_SHARE = 8  # a buffer gets room for an eighth more tokens than it needs: growing copies all of it
_STACKED_BYTES = 16 << 20  # what a packed buffer holds at most in stacked arrays


def roomy(tokens: int) -> int:
    """The room that a buffer for so many tokens is given where memory is not short."""
    return whole_steps(tokens + max(STEP_TOKENS, tokens // _ROOM_SHARE))


def whole_steps(tokens: int) -> int:
    return -(-tokens // STEP_TOKENS) * STEP_TOKENS


def reserve(flat: Sequence[Any], tokens: int) -> None:
    """Give the `tokens` leaves among `flat` room for so many tokens, array by array: at most one is there twice."""
    for leaf in flat:
        if class_of(leaf).kind == "tokens" and leaf.keys is not None and leaf.keys.shape[2] < tokens:
            leaf.keys = _resized(leaf.keys, 0, leaf.offset, tokens)
            mx.eval(leaf.keys)
            leaf.values = _resized(leaf.values, 0, leaf.offset, tokens)
            mx.eval(leaf.values)


def room_of(flat: Sequence[Any]) -> int:
    """Tokens that the `tokens` leaves among `flat` have room for; where there are none, as many as one likes."""
    rooms = (0 if leaf.keys is None else leaf.keys.shape[2] for leaf in flat if class_of(leaf).kind == "tokens")
    return min(rooms, default=sys.maxsize)


def _resized(array: mx.array, start: int, end: int, tokens: int) -> mx.array:
    """Tokens `start..end` of an array with room for `tokens`."""
    batch, heads, _, dim = array.shape
    room = mx.zeros((batch, heads, tokens - (end - start), dim), array.dtype)
    return mx.concatenate([array[:, :, start:end], room], axis=2)


class Buffer:
    """`start` is the depth of the first token held. Belongs to the engine thread."""

    __slots__ = (
        "__weakref__",
        "_blank_room",
        "_full_token_bytes",
        "_leaves",
        "_named_at",
        "_named_tokens",
        "_places",
        "_resting_bytes",
        "_runs",
        "_stacks",
        "is_lent",
        "renamed",
        "start",
        "used",
    )

    def __init__(self, leaves: list[Any], *, start: int = 0) -> None:
        """`leaves` are the `tokens` leaves of a cache, in the layout's order."""
        self.start = start
        self.is_lent = False
        self.used = 0  # when it was last given back, in an order that its owner keeps
        self._leaves = leaves
        self._stacks: list[mx.array | Packed] = []
        self._places: list[tuple[int, int]] = []  # of each leaf's keys and values: which stack, and where in it
        self._runs: WeakSet[Run] = WeakSet()
        self._blank_room = 0  # that arrays are given with the first tokens put there
        self.renamed = 0  # how often what is named of it changed, but for runs that went
        self._named_at: tuple[int, int] | None = None  # when `_named_tokens` was counted
        self._named_tokens = 0
        self._full_token_bytes = 0  # before it was squeezed
        self._resting_bytes: int | None = None  # while nothing but `nbytes` asks for its arrays

    @classmethod
    def of_arrays(cls, pairs: Sequence[Pair], *, start: int) -> Buffer:
        """A buffer at rest that holds these tokens, which it copies unless they are whole arrays."""
        buffer = cls([empty_tokens_leaf() for _ in pairs], start=start)
        for leaf, (keys, values) in zip(buffer._leaves, pairs, strict=True):
            length = keys.shape[2]
            class_of(leaf).fill(leaf, (mx.contiguous(keys), mx.contiguous(values)), length, length)
            mx.eval(leaf.keys, leaf.values)
        buffer._stack()
        return buffer

    @classmethod
    def blank(cls, count: int, *, start: int, room: int) -> Buffer:
        """A lent buffer of `count` leaves with room for so many tokens, which others `put` there."""
        buffer = cls([empty_tokens_leaf() for _ in range(count)], start=start)
        buffer.is_lent, buffer._blank_room = True, room
        return buffer

    def put(self, index: int, side: int, piece: mx.array, *, heads: int, head: int, start: int) -> None:
        """One head's keys or values of tokens from depth `start` on, [1, 1, tokens, dim], of a leaf with `heads`."""
        leaf, name = self._leaves[index], ("keys", "values")[side]
        if getattr(leaf, name) is None:
            setattr(leaf, name, mx.zeros((1, heads, self._blank_room, piece.shape[3]), piece.dtype))
        array = getattr(leaf, name)
        if array.dtype != piece.dtype:
            raise ValueError(f"{piece.dtype} among {array.dtype}")
        at = start - self.start
        array[:, head : head + 1, at : at + piece.shape[2]] = piece
        mx.eval(array)

    def settle(self) -> None:
        """All that was to be `put` is there: it is at rest."""
        self.is_lent, self._resting_bytes = False, None
        self._stack()

    # -- what it holds --------------------------------------------------------------------------------------------

    def tokens(self, index: int, side: int, start: int, end: int) -> mx.array:
        """Of a leaf's keys (side 0) or values (side 1), [1, heads, tokens, dim], those of the tokens `start..end`, by
        depth. Not to be kept."""
        first, last = start - self.start, end - self.start
        if self._stacks:
            stack, place = self._places[2 * index + side]
            return self._stacks[stack][place : place + 1, :, first:last]
        leaf = self._leaves[index]
        array: mx.array = leaf.values if side else leaf.keys
        return array[:, :, first:last]

    @property
    def count(self) -> int:
        """How many leaves it is of."""
        return len(self._places) // 2 if self._stacks else len(self._leaves)

    @property
    def arrays(self) -> int:
        """How many of the device's buffers it takes."""
        if self._stacks:
            return sum(3 if isinstance(stack, Packed) else 1 for stack in self._stacks)
        return 2 * sum(leaf.keys is not None for leaf in self._leaves)

    @property
    def nbytes(self) -> int:
        if self.is_lent:
            return self._count_bytes()
        if self._resting_bytes is None:
            self._resting_bytes = self._count_bytes()
        return self._resting_bytes

    def _count_bytes(self) -> int:
        if self._stacks:
            return sum(stack.nbytes for stack in self._stacks)
        return sum(leaf.keys.nbytes + leaf.values.nbytes for leaf in self._leaves if leaf.keys is not None)

    @property
    def room(self) -> int:
        """Tokens that it has room for."""
        if self._stacks:
            return int(self._stacks[0].shape[2])
        return 0 if self._leaves[0].keys is None else int(self._leaves[0].keys.shape[2])

    @property
    def token_bytes(self) -> int:
        """What a token takes, or took before it was squeezed."""
        return self._full_token_bytes or self.nbytes // self.room if self.room else 0

    # -- what is named of it --------------------------------------------------------------------------------------

    def name(self, run: Run) -> None:
        """The run names tokens of it, or others than before."""
        self._runs.add(run)
        self.renamed += 1

    def parts(self) -> Iterator[Part]:
        for run in list(self._runs):
            yield from (part for part in run.parts if part.buffer is self)

    @property
    def named(self) -> tuple[int, int]:
        """The depths between which all that is named lies; equal where nothing is."""
        parts = list(self.parts())
        if not parts:
            return self.start, self.start
        return min(part.start for part in parts), max(part.end for part in parts)

    @property
    def overhead_bytes(self) -> int:
        """Bytes at rest less those of all that is named. While it is lent nothing of it is at rest, and one of which
        nothing is named is as good as gone."""
        named = self._count_named() * self.token_bytes
        return (0 if self.is_lent or not named else self.nbytes) - named

    def _count_named(self) -> int:
        """Tokens that are named, once for each run; counted anew when runs came, went or moved."""
        at = (self.renamed, len(self._runs))
        if self._named_at != at:
            self._named_tokens = sum(part.end - part.start for part in self.parts())
            self._named_at = (self.renamed, len(self._runs))
        return self._named_tokens

    @property
    def is_movable(self) -> bool:
        """Whether it could be lent as it is."""
        return not self.is_lent and self.start == 0 and not self._stacks

    # -- lending --------------------------------------------------------------------------------------------------

    @property
    def leaves(self) -> list[Any]:
        """Of the running cache that it is lent to."""
        assert self.is_lent
        return self._leaves

    def reserve(self, needed: int, room: int) -> None:
        """Where there is no room for `needed` tokens, make it for `room`."""
        if self._leaves[0].keys is not None and self.room < needed:
            reserve(self._leaves, room)

    def lend(self, depth: int) -> None:
        """Let its leaves be those of a running cache of the first `depth` tokens."""
        assert self.is_movable
        for leaf in self._leaves:
            leaf.offset = depth
        self.is_lent, self._resting_bytes = True, None

    def take_in(self, parts: Sequence[Part], room: int) -> None:
        """Copy the tokens of these parts behind those that the running cache holds."""
        start, end = self._leaves[0].offset, parts[-1].end
        assert start == parts[0].start
        for index, leaf in enumerate(self._leaves):
            if leaf.keys is None:
                keys, values = (mx.concatenate(joined(parts, index, side), axis=2) for side in (0, 1))
                leaf.keys = _resized(keys, 0, end, max(room, end))
                mx.eval(leaf.keys)
                leaf.values = _resized(values, 0, end, max(room, end))
                mx.eval(leaf.values)
            else:
                leaf.keys[:, :, start:end] = mx.concatenate(joined(parts, index, 0), axis=2)
                leaf.values[:, :, start:end] = mx.concatenate(joined(parts, index, 1), axis=2)
                mx.eval(leaf.keys, leaf.values)
            leaf.offset = end

    def is_of(self, leaf: Any) -> bool:
        """Whether it is lent to the running cache that `leaf`, the first of its `tokens` leaves, belongs to."""
        return self.is_lent and self._leaves[0] is leaf

    def give_back(self, used: int) -> None:
        self.is_lent, self.used, self._resting_bytes = False, used, None
        _, end = self.named
        if self.room > (end - self.start) * (1 + 2 / _ROOM_SHARE):
            self.pack(is_trim=True)

    def pack(self, *, is_trim: bool = False) -> None:
        """Give up what is not named; to trim is to give up only what lies behind it."""
        start, end = self.named
        start = self.start if is_trim else start
        if self.is_lent or start == end or (start == self.start and end - start == self.room):
            return
        if self._stacks:
            self._stacks = [_cut(stack, start - self.start, end - self.start) for stack in self._stacks]
        else:
            for leaf in self._leaves:
                leaf.keys = _resized(leaf.keys, start - self.start, end - self.start, end - start)
                mx.eval(leaf.keys)
                leaf.values = _resized(leaf.values, start - self.start, end - self.start, end - start)
                mx.eval(leaf.values)
                leaf.offset = end - start
        self.start, self._resting_bytes = start, None
        self._stack()

    def squeeze(self) -> None:
        """Keep what is named at 8 bits a number, where mlx takes the arrays' sizes."""
        start, end = self.named
        if self.is_lent or start == end or self._full_token_bytes:
            return
        self.pack()
        self._full_token_bytes = self.token_bytes
        if not self._stacks:
            self._places = [(place, 0) for place in range(2 * len(self._leaves))]
            self._stacks = [array for leaf in self._leaves for array in (leaf.keys, leaf.values)]
            self._leaves = []
        for place, stack in enumerate(self._stacks):
            assert isinstance(stack, mx.array)
            self._stacks[place] = Packed.of(stack) or stack
        self._resting_bytes = None

    def _stack(self) -> None:
        """Put what is little into few arrays: those of one shape and type into one."""
        if self._stacks or self.nbytes > _STACKED_BYTES or not self.room:
            return
        shapes: dict[Any, list[mx.array]] = {}
        for leaf in self._leaves:
            for array in (leaf.keys, leaf.values):
                alike = shapes.setdefault((array.shape, array.dtype), [])
                self._places.append((list(shapes).index((array.shape, array.dtype)), len(alike)))
                alike.append(array)
        stacks = [mx.concatenate(alike) for alike in shapes.values()]
        mx.eval(stacks)
        self._stacks = list(stacks)
        self._leaves, self._resting_bytes = [], None


def _cut(stack: mx.array | Packed, start: int, end: int) -> mx.array | Packed:
    if isinstance(stack, Packed):
        return stack.cut(start, end)
    array = mx.contiguous(stack[:, :, start:end])
    mx.eval(array)
    return array


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens `start..end`, by depth, that `buffer` holds."""

    buffer: Buffer
    start: int
    end: int


@dataclass(slots=True, eq=False, weakref_slot=True)
class Run:
    """Tokens in a row, in the parts that hold them. Parts change when what they name is moved; tokens never do."""

    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        for part in self.parts:
            part.buffer.name(self)

    @property
    def start(self) -> int:
        return self.parts[0].start

    @property
    def end(self) -> int:
        return self.parts[-1].end

    @property
    def nbytes(self) -> int:
        return sum((part.end - part.start) * part.buffer.token_bytes for part in self.parts)

    @property
    def is_lent(self) -> bool:
        return any(part.buffer.is_lent for part in self.parts)

    def between(self, start: int, end: int) -> list[Part]:
        """The parts that hold the tokens between two depths, cut to them."""
        cut = (Part(part.buffer, max(part.start, start), min(part.end, end)) for part in self.parts)
        return [part for part in cut if part.start < part.end]

    def split(self, at: int) -> tuple[Run, Run]:
        """The tokens before depth `at` and the rest."""
        return Run(self.between(self.start, at)), Run(self.between(at, self.end))

    def move(self, source: Buffer, start: int, end: int, target: Buffer) -> None:
        """What `source` holds of the tokens between these depths, `target` holds as well, and now alone."""
        parts: list[Part] = []
        for part in self.parts:
            if part.buffer is not source or part.end <= start or part.start >= end:
                parts.append(part)
                continue
            low, high = max(part.start, start), min(part.end, end)
            cut = (Part(source, part.start, low), Part(target, low, high), Part(source, high, part.end))
            parts += [piece for piece in cut if piece.start < piece.end]
        self.parts = parts
        target.name(self)
        source.name(self)
        if all(part.buffer is not source for part in parts):
            source._runs.discard(self)


def joined(parts: Sequence[Part], index: int, side: int) -> list[mx.array]:
    """The keys or values of a leaf that these parts hold, in order. Not to be kept."""
    return [part.buffer.tokens(index, side, part.start, part.end) for part in parts]


def set_aside(buffer: Buffer, depth: int) -> Buffer | None:
    """Move what is named of a buffer at rest behind `depth` into one of its own, if there is any."""
    _, end = buffer.named
    if end <= depth:
        return None
    pairs = [
        (buffer.tokens(index, 0, depth, end), buffer.tokens(index, 1, depth, end)) for index in range(buffer.count)
    ]
    other = Buffer.of_arrays(pairs, start=depth)
    for run in list(buffer._runs):
        run.move(buffer, depth, end, other)
    return other


def lend(fresh: list[Any], runs: Sequence[Run], *, depth: int, needed: int, room: int) -> tuple[Buffer, list[Buffer]]:
    """A lent buffer that holds the first `depth` tokens that the `runs` name, with room for `needed`, or for `room`
    where that has to be made; and buffers that were made for what others name of it. `fresh` are leaves of an empty
    cache, for when all has to be copied.

    What a packed buffer holds and was copied is named in the lent one from then on, so that nothing is there twice.
    """
    parts = [part for run in runs for part in run.between(0, depth)]
    base, covered = _movable(parts, depth)
    made: list[Buffer] = []
    if base is None:
        base = Buffer(fresh)
        base.is_lent = True
    else:
        aside = set_aside(base, covered)
        made += [aside] if aside is not None else []
        base.lend(covered)
        base.reserve(needed, room)
    rest = [part for part in parts if part.end > covered]
    if rest:
        base.take_in(rest, room)
    for run in runs:
        for part in run.between(0, depth):
            if part.buffer is not base and not part.buffer.is_lent and not part.buffer.is_movable:
                run.move(part.buffer, part.start, part.end, base)
    return base, made


def movable(runs: Sequence[Run], depth: int) -> Buffer | None:
    """The buffer that would be lent as it is for the first `depth` tokens that the `runs` name, if there is one."""
    return _movable([part for run in runs for part in run.between(0, depth)], depth)[0]


def _movable(parts: Sequence[Part], depth: int) -> tuple[Buffer | None, int]:
    """The buffer to go on in, and how many tokens of the prefix it holds: the one that holds most, of those whose
    use for others would have to be copied only in small part."""
    covered = {part.buffer: part.end for part in parts if part.buffer.is_movable}
    best: tuple[Buffer | None, int] = (None, 0)
    for buffer, end in covered.items():
        behind = buffer.named[1] - end
        if end > best[1] and behind * _ROOM_SHARE <= depth:
            best = buffer, end
    return best
