"""The prefix cache in numbers, by the names of their metrics."""

from __future__ import annotations

from typing import Protocol

from worker.engines.mlx.kv.cache import Segment
from worker.prefix_cache.index import PrefixIndex


class Counting(Protocol):
    """What a store counts."""

    hits: int
    misses: int
    hit_tokens: int
    unkept_tokens: int
    max_bytes: int
    index: PrefixIndex[Segment]

    @property
    def arrays(self) -> int: ...


def store_figures(store: Counting, *, restored_tokens: int) -> dict[str, float]:
    return {
        "prefix_cache_hits": store.hits,
        "prefix_cache_misses": store.misses,
        "prefix_cache_hit_tokens": store.hit_tokens,
        "prefix_cache_evictions": store.index.evictions,
        "prefix_cache_max_bytes": store.max_bytes,
        "prefix_cache_restored_tokens": restored_tokens,
        "prefix_cache_unkept_tokens": store.unkept_tokens,
        "prefix_cache_arrays": store.arrays,
        "prefix_cache_disk_bytes": store.index.stored_bytes,
    }
