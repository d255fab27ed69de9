"""Where tokens stand for models that place an image's tokens in a plane (M-RoPE of Qwen-VL).

A token has three positions: time, row and column. They are one number for text, so a text alone is placed as mlx-lm
places it, by its offset in the cache. The tokens of an image share their time, and their rows and columns count from
there; what follows stands behind the larger side, nearer than by its offset. So a pass needs one of two things: how far
its tokens are moved from their offsets, or, where it reaches into an image, the three positions of each.

mlx-lm's attention asks its `rope` with an offset and nothing else: `PlacedRope` stands in its place and reads what the
pass under way was told. Source: https://arxiv.org/abs/2409.12191, 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from worker.prompt import Prompt

# How the frequencies are divided among the three: in blocks one behind the other, or in turn.
Order = Literal["blocks", "turns"]
_AXES = 3


@dataclass(slots=True)
class Pass:
    """`moved`: by how much, one number or one per row. `placed`: the three positions of each token, [3, tokens].
    `deep`: what is added behind each of the first layers, [1, tokens, width] each."""

    moved: int | mx.array = 0
    placed: mx.array | None = None
    deep: Sequence[mx.array] = ()


@dataclass(slots=True)
class Places:
    """What the pass under way is told. Belongs to the engine thread."""

    now: Pass = field(default_factory=Pass)

    @contextmanager
    def of(self, told: Pass) -> Iterator[None]:
        before, self.now = self.now, told
        try:
            yield
        finally:
            self.now = before


def moved_behind(prompt: Prompt, end: int) -> int:
    """By how much the tokens from `end` on are moved from their offsets, where no image reaches beyond `end`."""
    spans = (span for span in prompt.spans if span.end <= end)
    return sum(_saved(prompt.images[span.digest].grid, span.end - span.start) for span in spans)


def positions(prompt: Prompt, start: int, end: int) -> NDArray[np.int32] | None:
    """The three positions of the tokens `start..end`, [3, tokens]; None where no image is among them that has any."""
    pieces: list[NDArray[np.int32]] = []
    at = start
    is_placed = False
    for span in (span for span in prompt.spans if span.start < end and span.end > start):
        grid = prompt.images[span.digest].grid
        if grid is None:
            continue
        is_placed = True
        moved = moved_behind(prompt, span.start)
        pieces.append(_line(at, max(at, span.start), moved))
        first, last = max(span.start, start), min(span.end, end)
        pieces.append(_plane(grid, span.start + moved)[:, first - span.start : last - span.start])
        at = last
    if not is_placed:
        return None
    pieces.append(_line(at, end, moved_behind(prompt, at)))
    return np.concatenate(pieces, axis=1)


def _saved(grid: tuple[int, int] | None, tokens: int) -> int:
    return 0 if grid is None else max(grid) - tokens


def _line(start: int, end: int, moved: int) -> NDArray[np.int32]:
    return np.broadcast_to(np.arange(start, end, dtype=np.int32) + np.int32(moved), (_AXES, end - start))


def _plane(grid: tuple[int, int], begin: int) -> NDArray[np.int32]:
    rows, columns = grid
    index = np.arange(rows * columns, dtype=np.int32)
    return np.stack([np.full_like(index, begin), begin + index // columns, begin + index % columns])


def axes_of(order: Order, sections: Sequence[int]) -> NDArray[np.int32]:
    """Which of the three positions turns each frequency; `sections` is how many frequencies each has."""
    if order == "blocks":
        return np.repeat(np.arange(_AXES, dtype=np.int32), sections)
    axes = np.zeros(sum(sections), np.int32)
    for axis in (1, 2):
        axes[axis : sections[axis] * _AXES : _AXES] = axis
    return axes


class DeepLayer(nn.Module):
    """In the place of one of a model's first layers: what an image has for it is added behind it (DeepStack).

    Source: https://arxiv.org/abs/2511.21631, 2.
    """

    def __init__(self, layer: Any, places: Places, index: int) -> None:
        super().__init__()
        self.layer = layer
        self._places = places
        self._index = index

    def __call__(self, x: mx.array, *given: Any, **more: Any) -> mx.array:
        out: mx.array = self.layer(x, *given, **more)
        deep = self._places.now.deep
        return out + deep[self._index] if self._index < len(deep) else out


class PlacedRope:
    """In the place of an attention's `rope`, an `nn.RoPE` that turns halves against each other."""

    def __init__(self, rope: Any, places: Places, axes: NDArray[np.int32]) -> None:
        self._rope = rope
        self._places = places
        self._axes = mx.array(axes)
        self._half = rope.dims // 2
        self._frequencies = mx.power(rope.base, -mx.arange(self._half, dtype=mx.float32) / self._half)

    def __call__(self, x: mx.array, offset: Any = 0) -> mx.array:
        now = self._places.now
        if now.placed is None:
            turned: mx.array = self._rope(x, offset=offset + now.moved)
            return turned
        return self._turned(x, now.placed)

    def _turned(self, x: mx.array, placed: mx.array) -> mx.array:
        angles = placed[self._axes].T.astype(mx.float32) * self._frequencies  # [tokens, frequencies]
        cos, sin = mx.cos(angles), mx.sin(angles)
        wide = x.astype(mx.float32)
        left, right = wide[..., : self._half], wide[..., self._half : 2 * self._half]
        turned = [left * cos - right * sin, right * cos + left * sin, wide[..., 2 * self._half :]]
        return mx.concatenate(turned, axis=-1).astype(x.dtype)
