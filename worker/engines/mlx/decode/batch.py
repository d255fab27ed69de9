"""Forward passes: prompt chunks of one sequence, and decode steps of many sequences at once.

A group decodes its rows in one pass. With one row it keeps the model's own caches (no padding, no mask); with more
it keeps mlx-lm's batch caches, which are padded to the longest row. The next step is always under way on the device
while the tokens of the last one are read and handled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from worker.engines.mlx.decode.grouping import GroupShape
from worker.engines.mlx.decode.sampling import BatchSampler, Logprobs, PendingLogprobs, RowSampler
from worker.engines.mlx.eyes.places import Pass, Places
from worker.engines.mlx.kv.buffers import Buffer, reserve, room_of, whole_steps
from worker.engines.mlx.kv.cache import Layout, Segment, capture
from worker.engines.mlx.kv.classes import class_of, leaves, row_of
from worker.engines.mlx.kv.rewind import Mark, can_rewind, drop_last

_GPU_LAST_PASS_TOKENS = 48
_CPU_LAST_PASS_TOKENS = 8
_METADATA_STEPS = 64  # after which what a model may never read of a batch's caches is evaluated
_ROOM_SHARE = 16  # of an only row's tokens: how many more it is given room for when it has none left


@dataclass(slots=True, kw_only=True)
class Row:
    """One sequence being decoded. `length` counts the tokens whose keys and values its cache holds, `moved` by how much
    the next stands before that (see `eyes.places`)."""

    key: str
    sampler: RowSampler
    length: int
    moved: int = 0
    is_read: bool = False  # the token in flight was handed out before the row joined its group


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One decoded token of one row."""

    key: str
    token: int
    logprobs: Logprobs | None


def last_pass_tokens(layout: Layout) -> int:
    """How many tokens at the end of a prompt are best computed in the pass that gives the first token.

    A GPU reads all weights in every pass, so a short rest goes along for nothing. A CPU pays by the token, and where
    the last layer is attention it pays much less for tokens whose logits nobody wants: only their keys and values.
    """
    if mx.default_device().type == mx.DeviceType.gpu:
        return _GPU_LAST_PASS_TOKENS
    return _CPU_LAST_PASS_TOKENS if layout.kinds[-1] == "state" else 1


def prefill(model: Any, cache: list[Any], tokens: Sequence[int], embeddings: mx.array | None = None) -> None:
    """Run `tokens` through the model into `cache`, without logits. Returns when it is done. `embeddings`, where
    given, are what the model reads in their place."""
    _pass(model, cache, tokens, embeddings)
    mx.eval([leaf.state for leaf in leaves(cache)])


def prefill_last(model: Any, cache: list[Any], tokens: Sequence[int], embeddings: mx.array | None = None) -> mx.array:
    """The same for the prompt's last few tokens: logits [1, vocab] of the last one."""
    logits = _pass(model, cache, tokens, embeddings)[:, -1, :]
    mx.eval(logits, [leaf.state for leaf in leaves(cache)])
    return logits


def _pass(model: Any, cache: list[Any], tokens: Sequence[int], embeddings: mx.array | None) -> mx.array:
    read = {} if embeddings is None else {"input_embeddings": embeddings}
    logits: mx.array = model(mx.array([tokens], mx.int32), cache=cache, **read)
    return logits


def first_token(key: str, sampler: RowSampler, logits: mx.array) -> Token:
    """Sample the token that follows a prompt, whose last logits [1, vocab] these are."""
    tokens = BatchSampler([sampler]).sample(logits)
    pending = _pending_logprobs(logits, tokens, [sampler])
    mx.eval(tokens, pending.arrays if pending else [])
    logprobs = pending.read()[0] if pending else None
    sampled: Any = tokens.item()
    return Token(key=key, token=sampled, logprobs=logprobs)


class DecodeGroup:
    """Rows that share one forward pass per step."""

    def __init__(self, model: Any, layout: Layout, places: Places | None = None) -> None:
        self._model = model
        self._layout = layout
        self._places = places or Places()
        self._told = Pass()
        self._cache: list[Any] = []
        self._pending = mx.array([], mx.uint32)
        self._logprobs: PendingLogprobs | None = None
        self._sampler = BatchSampler([])
        self._room = 0  # tokens that the only row's cache has room for
        self._steps = 0
        self.waited_s = 0.0  # for the device, so far
        self.stalled_s = 0.0  # for which the device waited in the last step for what a row may say next
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def longest(self) -> int:
        return max((row.length for row in self.rows), default=0)

    @property
    def waits(self) -> bool:
        """Whether the device waits for the host in each step."""
        return self._sampler.waits

    @property
    def shape(self) -> GroupShape:
        return GroupShape(rows=len(self.rows), longest=self.longest, waits=self.waits)

    def join(self, row: Row, cache: list[Any], token: int) -> list[str]:
        """Take in a row whose cache holds its prompt and whose first token was already handed out. Gives the rows
        whose own caches are copied into a batch's."""
        row.is_read = True
        copied = [*(self.rows if len(self.rows) == 1 else []), *([row] if self.rows else [])]
        if not self.rows:
            self._cache = cache
        else:
            if len(self.rows) == 1:
                self._cache = _merged(self._cache)
            for mine, theirs in zip(self._cache, _merged(cache), strict=True):
                mine.extend(theirs)
            mx.eval([leaf.state for leaf in leaves(self._cache)])  # the rows' own caches may be written to again
        self._pending = mx.concatenate([self._pending, mx.array([token], mx.uint32)])
        self._rows_changed([*self.rows, row])
        return [each.key for each in copied]

    def step(self) -> list[Token]:
        """Start the next pass for every row, then hand out the tokens that the last one gave."""
        self._make_room(1)
        inputs, logprobs = self._pending, self._logprobs
        logits = self._pass(inputs[:, None])[:, -1, :]
        read_s = self._read_inputs(inputs)
        self._sampler.count(inputs)
        self._pending = self._sampler.sample(logits)
        self._logprobs = _pending_logprobs(logits, self._pending, [row.sampler for row in self.rows])
        mx.async_eval(  # type: ignore[no-untyped-call]
            self._pending, self._logprobs.arrays if self._logprobs else [], self._due_metadata()
        )
        self.stalled_s = time.perf_counter() - read_s if self.waits else 0.0
        with self._waiting():
            tokens: Any = inputs.tolist()
        values = logprobs.read() if logprobs else {}
        handed: list[Token] = []
        for index, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            row.length += 1
            if row.is_read:
                row.is_read = False
            else:
                handed.append(Token(key=row.key, token=token, logprobs=values.get(index)))
        return handed

    @property
    def can_verify(self) -> bool:
        """Whether `verify` may be called: with a single row whose next token nothing but its logits decides."""
        return len(self.rows) == 1 and self.rows[0].sampler.may_draft and can_rewind(self._cache)

    def read(self) -> list[Token]:
        """Wait for the only row's token in flight and hand it out, unless it was, without starting the next pass."""
        (row,) = self.rows
        if row.is_read:
            return []
        with self._waiting():
            token: Any = self._pending.item()
        values = self._logprobs.read() if self._logprobs else {}
        self._logprobs, row.is_read = None, True
        return [Token(key=row.key, token=token, logprobs=values.get(0))]

    def verify(self, draft: Sequence[int]) -> list[Token]:
        """One pass over the only row's last token, which was handed out, and what may follow it. Hands out the tokens
        of `draft` up to the first that the row would not have said, and one that it says itself."""
        (row,) = self.rows
        assert row.is_read
        last: Any = self._pending.item()
        inputs = [last, *draft]
        self._make_room(len(inputs))
        mark = Mark(self._cache) if self._layout.has_state else None
        logits = self._pass(mx.array([inputs], mx.int32))[0]
        run = self._sampler.sample_run(logits, inputs)
        logprobs = _pending_logprobs(logits, run.tokens, [row.sampler] * len(inputs))
        with self._waiting():
            mx.eval(run.tokens, logprobs.arrays if logprobs else [])
        said: Any = run.tokens.tolist()
        right = next((index for index, token in enumerate(draft) if said[index] != token), len(draft))
        run.keep(right + 1)
        self._keep_passed(inputs, right + 1, mark)
        row.length += right + 1
        self._pending, self._logprobs = run.tokens[right : right + 1], None
        values = logprobs.read() if logprobs else {}
        return [
            Token(key=row.key, token=token, logprobs=values.get(index)) for index, token in enumerate(said[: right + 1])
        ]

    def _keep_passed(self, inputs: Sequence[int], count: int, mark: Mark | None) -> None:
        """Of the pass just made over `inputs`, leave the first `count` in the cache. Recurrent states cannot be cut:
        they go back to the `mark`, and those inputs pass again."""
        if count == len(inputs):
            return
        if mark is None:
            drop_last(self._cache, len(inputs) - count)
            return
        mark.restore(self._cache)
        self._pass(mx.array([inputs[:count]], mx.int32))
        mx.async_eval([leaf.state for leaf in leaves(self._cache)])  # type: ignore[no-untyped-call]

    def _pass(self, tokens: mx.array) -> mx.array:
        with self._places.of(self._told):
            logits: mx.array = self._model(tokens, cache=self._cache)
        return logits

    def capture(self, key: str, start: int, end: int, buffer: Buffer | None) -> Segment:
        """A segment for tokens `start..end` of the row, `end` being where the row's cache stands or before."""
        index = self._index(key)
        row = self.rows[index]
        cache = self._cache if len(self.rows) == 1 else [row_of(item, index) for item in self._cache]
        return capture(self._layout, cache, start=start, end=end, depth=row.length, buffer=buffer)

    def rewind(self, key: str) -> None:
        """Bring a row's sampler to where it stands once every token handed out is counted, and none beyond."""
        index = self._index(key)
        row = self.rows[index]
        if row.is_read:
            tokens: Any = self._pending[index].tolist()
            BatchSampler([row.sampler]).count(mx.array([tokens], mx.uint32))
        else:
            row.sampler.undraw()

    def leave(self, keys: set[str]) -> None:
        """Forget these rows."""
        keep = [index for index, row in enumerate(self.rows) if row.key not in keys]
        if len(keep) == len(self.rows):
            return
        if not keep:
            self._cache = []
            self._pending = mx.array([], mx.uint32)
        else:
            self._pending = self._pending[mx.array(keep, mx.int32)]
            if len(keep) == 1:
                self._cache = [item.extract(keep[0]) for item in self._cache]
            else:
                for item in self._cache:
                    item.filter(keep)
        if self._logprobs is not None:
            self._logprobs.keep(keep)
        self._rows_changed([self.rows[index] for index in keep])

    def _read_inputs(self, inputs: mx.array) -> float:
        """Wait for the last pass's tokens where they decide what may come next. The moment at which they are there."""
        if self.waits:
            with self._waiting():
                mx.eval(inputs)
        return time.perf_counter()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """The block does nothing but wait for the device."""
        began_s = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - began_s

    def _due_metadata(self) -> list[mx.array]:
        """Now and then, what each pass changes of the caches though the model may not read it: else a graph of all
        passes hangs behind it, and each of them holds a buffer."""
        self._steps += 1
        if self._steps % _METADATA_STEPS:
            return []
        return [array for leaf in leaves(self._cache) for array in class_of(leaf).metadata(leaf)]

    def _make_room(self, count: int) -> None:
        """For the only row's next tokens: mlx-lm makes room for 256 at a time, and copies all to do so."""
        if len(self.rows) != 1 or (needed := self.rows[0].length + count) <= self._room:
            return
        self._room = whole_steps(needed + needed // _ROOM_SHARE)
        reserve(leaves(self._cache), self._room)

    def _rows_changed(self, rows: list[Row]) -> None:
        self._room = room_of(leaves(self._cache)) if len(rows) == 1 else 0
        self.rows = rows
        self._told = Pass(moved=_moved(rows))
        self._sampler = BatchSampler([row.sampler for row in rows])

    def _index(self, key: str) -> int:
        return next(index for index, row in enumerate(self.rows) if row.key == key)


def _moved(rows: Sequence[Row]) -> int | mx.array:
    if len(rows) > 1 and any(row.moved for row in rows):
        return mx.array([row.moved for row in rows], mx.int32)
    return rows[0].moved if len(rows) == 1 else 0


def _merged(cache: list[Any]) -> list[Any]:
    """The batch caches of a single sequence's caches."""
    return [item.merge([item]) for item in cache]


def _pending_logprobs(logits: mx.array, tokens: mx.array, samplers: Sequence[RowSampler]) -> PendingLogprobs | None:
    wanted = {
        index: sampler.params.top_logprobs
        for index, sampler in enumerate(samplers)
        if sampler.params.top_logprobs is not None
    }
    return PendingLogprobs(logits, tokens, wanted) if wanted else None
