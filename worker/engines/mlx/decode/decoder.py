"""All sequences that are being decoded, in groups of similar length, and what they take of memory and time."""

from __future__ import annotations

import time
from typing import Any

from worker.engines.mlx.decode.batch import DecodeGroup, Row, Token
from worker.engines.mlx.decode.grouping import GroupShape, choose_group
from worker.engines.mlx.decode.sampling import RowSampler
from worker.engines.mlx.decode.speculation import Speculation
from worker.engines.mlx.kv.buffers import Buffer
from worker.engines.mlx.kv.cache import Layout, Segment
from worker.engines.mlx.memory.plan import CacheSize
from worker.engines.mlx.memory.room import Room

_PASS_OVERHEAD_BYTES = 64 << 20  # what a device could read in the time that starting one more pass takes
_LONG_SHARE = 8  # a row is long whose cache takes more than an eighth of what the weights take
_RATE_DECAY = 0.9


class Decoder:
    """Belongs to the engine thread."""

    def __init__(
        self,
        model: Any,
        layout: Layout,
        speculation: Speculation,
        *,
        size: CacheSize,
        room: Room,
        weight_bytes: int,
    ) -> None:
        self._model = model
        self._layout = layout
        self._speculation = speculation
        self._size = size
        self._room = room
        self._pass_bytes = weight_bytes // 2 + _PASS_OVERHEAD_BYTES
        self._long_bytes = max(weight_bytes // _LONG_SHARE, _PASS_OVERHEAD_BYTES)
        self._groups: list[DecodeGroup] = []
        self._group_of: dict[str, DecodeGroup] = {}
        self.last_s = 0.0  # seconds of the last step, 0 when nothing was decoded
        self.step_s = 0.0  # the same, smoothed
        self.tokens_per_s = 0.0  # smoothed, over all sequences

    def __len__(self) -> int:
        return len(self._group_of)

    @property
    def groups(self) -> int:
        return len(self._groups)

    def join(self, key: str, sampler: RowSampler, cache: list[Any], *, length: int, token: int) -> list[str]:
        """Go on with a sequence whose cache holds `length` tokens, after `token`, which was handed out already. Gives
        the sequences whose caches were copied into a batch, and are not used any more."""
        group = self._choose(length)
        self._group_of[key] = group
        return group.join(Row(key=key, sampler=sampler, length=length), cache, token)

    def _choose(self, length: int) -> DecodeGroup:
        if self._layout.can_batch:
            chosen = choose_group(
                [GroupShape(rows=len(group), longest=group.longest) for group in self._groups],
                length,
                token_bytes=self._size.token_bytes,
                pass_bytes=self._pass_bytes,
                free_bytes=self._room.free_bytes,
                long_bytes=self._long_bytes,
            )
            if chosen is not None:
                return self._groups[chosen]
        group = DecodeGroup(self._model, self._layout)
        self._groups.append(group)
        return group

    def step(self) -> list[Token]:
        """One token for every sequence, except those that joined since the last step."""
        self.last_s = 0.0
        if not self._groups:
            return []
        began_s = time.perf_counter()
        tokens = [token for group in self._groups for token in self._speculation.step(group, is_alone=self.groups == 1)]
        self.last_s = elapsed_s = time.perf_counter() - began_s
        self.step_s = _smoothed(self.step_s, elapsed_s)
        if tokens:
            self.tokens_per_s = _smoothed(self.tokens_per_s, len(tokens) / elapsed_s)
        return tokens

    def length(self, key: str) -> int:
        """How many of its tokens the sequence's cache holds."""
        return next(row.length for row in self._group_of[key].rows if row.key == key)

    def capture(self, key: str, start: int, end: int, buffer: Buffer | None) -> Segment:
        """`buffer` is what the sequence's own cache lies in, if it is lent to it."""
        return self._group_of[key].capture(key, start, end, buffer)

    def leave(self, key: str) -> None:
        """Forget a sequence."""
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
