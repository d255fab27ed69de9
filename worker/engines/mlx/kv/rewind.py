"""Takes tokens back out of a single sequence's running cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.engines.mlx.kv.classes import class_of, leaves


def can_rewind(cache: Sequence[Any]) -> bool:
    """Whether tokens can be taken out of every layer's cache again."""
    return all(class_of(leaf).is_rewound for leaf in leaves(cache))


def drop_last(cache: Sequence[Any], count: int) -> None:
    """Take out the last `count` tokens of the pass just made, which had more. Not for recurrent states."""
    for leaf in leaves(cache):
        class_of(leaf).drop_last(leaf, count)


class Mark:
    """Where a cache that can be rewound stands, to go back there after any number of passes.

    Nothing is copied until the cache changes, and then only windows: what full attention adds lies behind the mark,
    and recurrent states are replaced, not changed.
    """

    def __init__(self, cache: Sequence[Any]) -> None:
        self._marks = [class_of(leaf).mark(leaf) for leaf in leaves(cache)]

    def restore(self, cache: Sequence[Any]) -> None:
        """Bring the marked cache back. Once only."""
        for leaf, mark in zip(leaves(cache), self._marks, strict=True):
            class_of(leaf).go_back(leaf, mark)
