"""One small thing for texts and token lists alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Length of the common prefix: compared in halves, at memory speed for texts and for lists."""
    if type(one) is not type(other):
        one, other = list(one), list(other)
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
