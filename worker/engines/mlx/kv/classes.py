"""What is known of mlx-lm's cache classes: one row each, and nowhere else.

mlx-lm gives every layer a cache object, or several in a `CacheList`; `leaves` are the innermost ones. A row says how
its class is captured, restored, taken out of a batch, rewound and written to files. What has no row is of the kind
`state`: it is copied whole, stays in memory, and its model decodes its requests one by one. The facts behind the rows
are pinned to mlx-lm's version by tests (`MLX_LM_INTERNALS`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
)

Kind = Literal["tokens", "window", "state"]
Pair = tuple[mx.array, mx.array]  # keys and values, [1, heads, tokens, dim]

STEP_TOKENS = int(KVCache.step)  # by which a cache's room for tokens grows


class CacheClass:
    """How a leaf of one class is treated. This one is for every class of which nothing is known.

    `is_known`: its `state` is all that it holds. `is_batched`: its model's rows may share a pass. `is_stored`: it can
    be made again from its `state`, so it may be written to a file. `is_rewound`: tokens can be taken out again.
    """

    kind: Kind = "state"
    is_known = False
    is_batched = False
    is_stored = False
    is_rewound = False
    # By path in the `state` of a `state` leaf: arrays whose third axis is that of what it holds, and what counts that.
    growing: frozenset[str] = frozenset()
    counting: frozenset[str] = frozenset()

    def can_stand_at(self, scalars: Mapping[str, Any], tokens: int, depth: int) -> bool:
        """Of a `state` leaf: whether one whose `growing` arrays have so many `tokens`, and whose state has these
        scalars, by path, may be that of a sequence of `depth` tokens."""
        return True

    # -- capture and restore ------------------------------------------------------------------------------------------

    def window(self, leaf: Any) -> int:
        """Of a `window` leaf: how many of the last tokens suffice; 0 for other kinds."""
        return 0

    def held(self, leaf: Any) -> Pair:
        """Of a `tokens` or `window` leaf: what it holds, oldest token first, unused room left out."""
        raise NotImplementedError(type(leaf).__name__)

    def fill(self, leaf: Any, pair: Pair, depth: int, held: int) -> None:
        """Let a fresh `tokens` or `window` leaf hold the last `held` of `depth` tokens, which come first in `pair`;
        what is behind them is room."""
        raise NotImplementedError(type(leaf).__name__)

    def copied(self, leaf: Any) -> Any:
        """Of a `state` leaf: a copy that shares no larger buffer with it and is not changed by it."""
        return copy.deepcopy(leaf)

    # -- batches ------------------------------------------------------------------------------------------------------

    def row(self, leaf: Any, index: int) -> Any:
        """Row `index` of a batch cache as a single sequence's, without copying what grows with its length."""
        return leaf.extract(index)

    def metadata(self, leaf: Any) -> list[mx.array]:
        """Arrays beside keys and values that every pass changes, though a model may never read them."""
        return []

    # -- rewinding ----------------------------------------------------------------------------------------------------

    def drop_last(self, leaf: Any, count: int) -> None:
        """Take out the last `count` tokens of the pass just made, which had more. Not for states."""
        raise NotImplementedError(type(leaf).__name__)

    def mark(self, leaf: Any) -> Any:
        """What `go_back` needs to bring the leaf back to where it is now, after any number of passes."""
        raise NotImplementedError(type(leaf).__name__)

    def go_back(self, leaf: Any, mark: Any) -> None:
        raise NotImplementedError(type(leaf).__name__)


class _Tokens(CacheClass):
    """`KVCache`: one key and value per token, in order, with room behind the first `offset`."""

    kind = "tokens"
    is_known = is_batched = is_stored = is_rewound = True

    def held(self, leaf: Any) -> Pair:
        return leaf.keys[:, :, : leaf.offset], leaf.values[:, :, : leaf.offset]

    def fill(self, leaf: Any, pair: Pair, depth: int, held: int) -> None:
        assert held == depth
        (leaf.keys, leaf.values), leaf.offset = pair, depth

    def drop_last(self, leaf: Any, count: int) -> None:
        leaf.trim(count)

    def mark(self, leaf: Any) -> Any:
        return leaf.offset

    def go_back(self, leaf: Any, mark: Any) -> None:
        leaf.offset = mark


class _Window(CacheClass):
    """`RotatingKVCache` that keeps no first tokens: a ring of `max_size` tokens after passes of one token, a list in
    order after longer ones."""

    kind = "window"
    is_known = is_batched = is_stored = is_rewound = True

    def window(self, leaf: Any) -> int:
        return int(leaf.max_size)

    def held(self, leaf: Any) -> Pair:
        return _ring_in_order(leaf, leaf.keys), _ring_in_order(leaf, leaf.values)

    def fill(self, leaf: Any, pair: Pair, depth: int, held: int) -> None:
        (leaf.keys, leaf.values), leaf.offset, leaf._idx = pair, depth, held

    def drop_last(self, leaf: Any, count: int) -> None:
        """A pass of several tokens leaves the ring in order and with as many tokens more than its window as the pass
        had less one, so the window is whole when any but the first are dropped."""
        assert leaf._idx == leaf.keys.shape[2]
        leaf._idx -= count
        leaf.offset -= count
        leaf.keys, leaf.values = leaf.keys[:, :, : leaf._idx], leaf.values[:, :, : leaf._idx]

    def mark(self, leaf: Any) -> Any:
        return _same(leaf.keys), _same(leaf.values), leaf.offset, leaf._idx

    def go_back(self, leaf: Any, mark: Any) -> None:
        leaf.keys, leaf.values, leaf.offset, leaf._idx = mark


class _PinnedWindow(CacheClass):
    """`RotatingKVCache` that also keeps the first tokens: copied whole."""

    is_known = is_batched = is_stored = True
    growing = frozenset({"0", "1"})  # keys, values
    counting = frozenset({"2", "5"})  # of tokens in all, and where in the ring the next goes

    def can_stand_at(self, scalars: Mapping[str, Any], tokens: int, depth: int) -> bool:
        """What it holds, as mlx-lm puts it in order, must be as much as its mask is made for."""
        offset, keep, size, index = (int(scalars[path]) for path in ("2", "3", "4", "5"))
        held = tokens if index == tokens or index < offset else index
        return offset == depth and min(keep, depth) <= index <= tokens and min(held, size) == min(offset, size)


class _Chunk(CacheClass):
    """`ChunkedKVCache`: the tokens since `start_position`, at least those of a chunk, in order."""

    kind = "window"
    is_known = is_stored = True

    def window(self, leaf: Any) -> int:
        return int(leaf.chunk_size)

    def held(self, leaf: Any) -> Pair:
        end = leaf.offset - leaf.start_position
        return leaf.keys[:, :, :end], leaf.values[:, :, :end]

    def fill(self, leaf: Any, pair: Pair, depth: int, held: int) -> None:
        (leaf.keys, leaf.values), leaf.offset, leaf.start_position = pair, depth, depth - held


class _Arrays(CacheClass):
    """`ArraysCache`: recurrent states, which a pass replaces and never changes in place."""

    is_known = is_batched = is_stored = is_rewound = True

    def copied(self, leaf: Any) -> Any:
        kept = copy.deepcopy(leaf)
        kept.cache = [None if array is None else mx.contiguous(array) for array in kept.cache]
        return kept

    def metadata(self, leaf: Any) -> list[mx.array]:
        return [array for array in (leaf.left_padding, leaf.lengths) if array is not None]

    def mark(self, leaf: Any) -> Any:
        return list(leaf.cache)

    def go_back(self, leaf: Any, mark: Any) -> None:
        leaf.cache = mark


class _BatchTokens(CacheClass):
    """`BatchKVCache`, several rows of `KVCache`: padded on the left, up to the same end for all."""

    is_known = is_batched = True

    def row(self, leaf: Any, index: int) -> Any:
        padding = leaf.left_padding.tolist()[index]
        single = KVCache()
        single.keys = leaf.keys[index : index + 1, :, padding : leaf._idx]
        single.values = leaf.values[index : index + 1, :, padding : leaf._idx]
        single.offset = leaf._idx - padding
        return single

    def metadata(self, leaf: Any) -> list[mx.array]:
        return [leaf.offset, leaf.left_padding]


class _BatchWindow(CacheClass):
    """`BatchRotatingKVCache`, several rows of `RotatingKVCache`. Its passes evaluate all that they change."""

    is_known = is_batched = True


_UNKNOWN = CacheClass()
_PINNED_WINDOW = _PinnedWindow()
CACHE_CLASSES: dict[type, CacheClass] = {
    KVCache: _Tokens(),
    RotatingKVCache: _Window(),
    ChunkedKVCache: _Chunk(),
    ArraysCache: _Arrays(),
    BatchKVCache: _BatchTokens(),
    BatchRotatingKVCache: _BatchWindow(),
}
# Those whose copies may stand in a file as what `from_state` makes them of, by name.
STORED_CLASSES: dict[str, Any] = {cls.__name__: cls for cls, known in CACHE_CLASSES.items() if known.is_stored}


def class_of(leaf: Any) -> CacheClass:
    """The row of the leaf's class; a subclass is another class."""
    if type(leaf) is RotatingKVCache and leaf.keep:
        return _PINNED_WINDOW
    return CACHE_CLASSES.get(type(leaf), _UNKNOWN)


def empty_tokens_leaf() -> Any:
    return KVCache()


def leaves(cache: Sequence[Any]) -> list[Any]:
    """The innermost cache objects of a layer list, composite ones flattened, in a fixed order."""
    flat: list[Any] = []
    for item in cache:
        flat.extend(leaves(item.caches) if isinstance(item, CacheList) else [item])
    return flat


def nested(cache: Sequence[Any], flat: Iterator[Any]) -> list[Any]:
    """The layer list `cache` with its leaves replaced by those of `flat`, in order."""
    layers = []
    for item in cache:
        if isinstance(item, CacheList):
            item.caches = tuple(nested(item.caches, flat))
            layers.append(item)
        else:
            layers.append(next(flat))
    return layers


def row_of(item: Any, index: int) -> Any:
    """One row of the layer's batch cache `item` as a single sequence's layer cache."""
    if isinstance(item, CacheList):
        return CacheList(*(row_of(inner, index) for inner in item.caches))
    return class_of(item).row(item, index)


def leaf_bytes(leaf: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(leaf.state) if isinstance(array, mx.array))


def leaf_arrays(leaf: Any) -> int:
    return sum(isinstance(array, mx.array) for _, array in tree_flatten(leaf.state))


def cache_bytes(cache: Sequence[Any]) -> int:
    return sum(leaf_bytes(leaf) for leaf in leaves(cache))


def token_bytes(leaf: Any) -> int:
    """Bytes per token of a `tokens` or `window` leaf that holds some."""
    return int((leaf.keys.nbytes + leaf.values.nbytes) // leaf.keys.shape[2])


def _ring_in_order(leaf: Any, array: mx.array) -> mx.array:
    if leaf._idx == array.shape[2] or leaf._idx >= leaf.offset:
        return array[:, :, : leaf._idx]
    return mx.concatenate([array[:, :, leaf._idx :], array[:, :, : leaf._idx]], axis=2)


def _same(array: mx.array | None) -> mx.array | None:
    """Another reference to the same numbers: writing into the first one no longer changes them."""
    return None if array is None else mx.array(array)
