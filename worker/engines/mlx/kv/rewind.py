"""Takes tokens back out of a single sequence's running cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from worker.engines.mlx.kv.cache import leaves

_KNOWN = (KVCache, RotatingKVCache, ArraysCache)


def can_rewind(cache: Sequence[Any]) -> bool:
    """Whether every layer's cache is of a kind that this module knows how to take tokens out of."""
    return all(type(leaf) in _KNOWN and not (type(leaf) is RotatingKVCache and leaf.keep) for leaf in leaves(cache))


def drop_last(cache: Sequence[Any], count: int) -> None:
    """Take out the last `count` tokens of the pass just made, which had more. Not for recurrent states.

    A pass of several tokens leaves a rotating cache in order and with as many tokens more than its window as the
    pass had less one, so the window is whole when any but the first are dropped.
    """
    for leaf in leaves(cache):
        if type(leaf) is KVCache:
            leaf.trim(count)
            continue
        assert type(leaf) is RotatingKVCache
        assert leaf._idx == leaf.keys.shape[2]
        leaf._idx -= count
        leaf.offset -= count
        leaf.keys, leaf.values = leaf.keys[:, :, : leaf._idx], leaf.values[:, :, : leaf._idx]


class Mark:
    """Where a cache of any known kind stands, to go back there after any number of passes.

    Nothing is copied until the cache changes, and then only windows: what full attention adds lies behind the mark,
    and recurrent states are replaced, not changed.
    """

    def __init__(self, cache: Sequence[Any]) -> None:
        self._saved = [_save(leaf) for leaf in leaves(cache)]

    def restore(self, cache: Sequence[Any]) -> None:
        """Bring the marked cache back. Once only."""
        for leaf, saved in zip(leaves(cache), self._saved, strict=True):
            if type(leaf) is KVCache:
                leaf.offset = saved
            elif type(leaf) is ArraysCache:
                leaf.cache = saved
            else:
                leaf.keys, leaf.values, leaf.offset, leaf._idx = saved


def _save(leaf: Any) -> Any:
    if type(leaf) is KVCache:
        return leaf.offset
    if type(leaf) is ArraysCache:
        return list(leaf.cache)
    return _same(leaf.keys), _same(leaf.values), leaf.offset, leaf._idx


def _same(array: mx.array | None) -> mx.array | None:
    """Another reference to the same numbers: writing into the first one no longer changes them."""
    return None if array is None else mx.array(array)
