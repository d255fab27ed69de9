"""Keys and values at 8 bits a number: what is kept, and not in use, takes little more than half then.

mlx's affine quantisation: groups of numbers along the last axis share a scale and an offset of the array's own type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

BITS = 8
_GROUPS = (64, 32)  # numbers that share a scale, the larger the smaller


def group_of(dim: int) -> int:
    """How many numbers share a scale where the last axis has `dim`; 0 where mlx does not take that size."""
    return next((group for group in _GROUPS if dim % group == 0), 0)


@dataclass(frozen=True, slots=True)
class Packed:
    """An array [n, heads, tokens, dim]: its numbers, four to an integer, and their scales and offsets."""

    numbers: mx.array
    scales: mx.array
    offsets: mx.array

    @classmethod
    def of(cls, array: mx.array) -> Packed | None:
        """None where mlx does not take the size or the type. It is there when this returns."""
        group = group_of(array.shape[3])
        if not group or not mx.issubdtype(array.dtype, mx.floating):
            return None
        parts = mx.quantize(array, group_size=group, bits=BITS)
        mx.eval(parts)
        return cls(*parts)

    @property
    def parts(self) -> tuple[mx.array, mx.array, mx.array]:
        return self.numbers, self.scales, self.offsets

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.numbers.shape[:3], self.numbers.shape[3] * 32 // BITS)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def __getitem__(self, key: Any) -> mx.array:
        """What the array would give, for slices of all axes but the last."""
        numbers, scales, offsets = (part[key] for part in self.parts)
        return mx.dequantize(numbers, scales, offsets, group_size=group_of(self.shape[3]), bits=BITS)

    def cut(self, start: int, end: int) -> Packed:
        """The tokens between two places alone."""
        parts = [mx.contiguous(part[:, :, start:end]) for part in self.parts]
        mx.eval(parts)
        return Packed(*parts)
