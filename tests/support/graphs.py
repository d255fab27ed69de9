"""How much of what was computed still hangs behind arrays as a graph that nothing has evaluated."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx

from worker.engines.mlx.kv.classes import leaves


def edges(arrays: list[mx.array]) -> int:
    """Of the graph behind the arrays."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return text.getvalue().count("->")


def edges_behind(cache: list[Any]) -> int:
    """Of the graph behind every array that the cache holds, in whatever field."""
    held = [array for leaf in leaves(cache) for array in _arrays(vars(leaf))]
    return edges(held) if held else 0


def _arrays(value: Any) -> Iterator[mx.array]:
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, Mapping):
        yield from _arrays(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _arrays(item)
    elif hasattr(value, "__dict__"):
        yield from _arrays(vars(value))
