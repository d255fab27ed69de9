"""All sequences that are being decoded, in groups of similar length, and what they take of memory and time."""

from __future__ import annotations

import time
from typing import Any

from shared.cache_size import CacheSize
from worker.engines.mlx.decode import grouping
from worker.engines.mlx.decode.batch import DecodeGroup, Row, Token
from worker.engines.mlx.decode.grouping import GroupShape, choose_group
from worker.engines.mlx.decode.speculation import Speculation
from worker.engines.mlx.decode.step_meter import StepMeter
from worker.engines.mlx.kv.buffers import Buffer
from worker.engines.mlx.kv.cache import Layout, Segment
from worker.engines.mlx.memory.room import Room
from worker.engines.mlx.model.models import LoadedModel

_LONG_SHARE = 8  # a row is long whose cache takes more than an eighth of what the weights take
_LEAST_LONG_BYTES = 64 << 20
_OBSERVED_EVERY = 8  # steps: more would tell little, and each costs some of the host's time
_RATE_DECAY = 0.9


class Decoder:
    """Belongs to the engine thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        layout: Layout,
        speculation: Speculation,
        *,
        size: CacheSize,
        room: Room,
    ) -> None:
        self._model = loaded.model
        self._places = loaded.places
        self._layout = layout
        self._speculation = speculation
        self._size = size
        self._room = room
        self._meter = StepMeter(weight_bytes=loaded.weight_bytes, token_bytes=size.token_bytes)
        self._steps = 0
        self._is_steady = False  # whether the last step was one, too, of the same rows, and nothing came between
        self._long_bytes = max(loaded.weight_bytes // _LONG_SHARE, _LEAST_LONG_BYTES)
        self._groups: list[DecodeGroup] = []
        self._group_of: dict[str, DecodeGroup] = {}
        self.last_s = 0.0  # seconds of the last step, 0 when nothing was decoded
        self.step_s = 0.0  # the same, smoothed
        self.slack_s = 0.0  # smoothed seconds of a step in which the host waited for the device
        self.tokens_per_s = 0.0  # smoothed, over all sequences

    def __len__(self) -> int:
        return len(self._group_of)

    @property
    def groups(self) -> int:
        return len(self._groups)

    def join(self, row: Row, cache: list[Any], token: int) -> list[str]:
        """Go on with a sequence whose cache holds `row.length` tokens, after `token`, which was handed out already.
        Gives the sequences whose caches were copied into a batch, and are not used any more."""
        self._is_steady = False
        group = self._choose(GroupShape(rows=1, longest=row.length, waits=row.sampler.constraint is not None))
        self._group_of[row.key] = group
        return group.join(row, cache, token)

    def _choose(self, row: GroupShape) -> DecodeGroup:
        if self._layout.can_batch:
            room = grouping.Room(
                token_bytes=self._size.token_bytes, free_bytes=self._room.free_bytes, long_bytes=self._long_bytes
            )
            chosen = choose_group([group.shape for group in self._groups], row, cost=self._meter.cost, room=room)
            if chosen is not None:
                return self._groups[chosen]
        group = DecodeGroup(self._model, self._layout, self._places)
        self._groups.append(group)
        return group

    def disturbed(self) -> None:
        """Something else used the device since the last step, so how long the next one takes says nothing."""
        self._is_steady = False
        self._speculation.disturbed()

    def step(self) -> list[Token]:
        """One token for every sequence, except those that joined since the last step."""
        self.last_s = 0.0
        if not self._groups:
            return []
        began_s, waited_s = time.perf_counter(), self._waited_s()
        tokens = [token for group in self._groups for token in self._speculation.step(group, is_alone=self.groups == 1)]
        self.last_s = elapsed_s = time.perf_counter() - began_s
        self.step_s = _smoothed(self.step_s, elapsed_s)
        self.slack_s = _smoothed(self.slack_s, self._waited_s() - waited_s)
        self._observe(len(tokens), elapsed_s)
        if tokens:
            self.tokens_per_s = _smoothed(self.tokens_per_s, len(tokens) / elapsed_s)
        return tokens

    def _observe(self, tokens: int, seconds: float) -> None:
        """Learn from some of the steps that gave each row its token and followed one of the same rows."""
        for group in self._groups:
            if group.waits:
                self._meter.observe_stall(group.stalled_s)
        self._steps += 1
        if self._is_steady and self._steps % _OBSERVED_EVERY == 0:
            shapes = [group.shape for group in self._groups]
            rows = sum(shape.rows for shape in shapes)
            padded = sum(shape.rows * shape.longest for shape in shapes)
            stalled_s = self._groups[0].stalled_s if len(shapes) == 1 else 0.0  # else others computed meanwhile
            if tokens == rows:
                self._meter.observe(groups=len(shapes), rows=rows, tokens=padded, seconds=seconds - stalled_s)
        self._is_steady = True

    def _waited_s(self) -> float:
        return sum(group.waited_s for group in self._groups)

    def length(self, key: str) -> int:
        """How many of its tokens the sequence's cache holds."""
        return next(row.length for row in self._group_of[key].rows if row.key == key)

    def capture(self, key: str, start: int, end: int, buffer: Buffer | None) -> Segment:
        """`buffer` is what the sequence's own cache lies in, if it is lent to it."""
        return self._group_of[key].capture(key, start, end, buffer)

    def leave(self, key: str) -> None:
        """Forget a sequence."""
        self._is_steady = False
        self._speculation.end(key)
        group = self._group_of.pop(key)
        group.leave({key})
        if not group:
            self._groups.remove(group)

    def interrupt(self, key: str) -> None:
        """Take a sequence out so that it can go on after its tokens were computed anew."""
        group = self._group_of[key]
        group.rewind(key)
        self.leave(key)

    def clear(self) -> None:
        self._groups.clear()
        self._group_of.clear()


def _smoothed(average: float, value: float) -> float:
    return value if not average else average * _RATE_DECAY + value * (1 - _RATE_DECAY)
