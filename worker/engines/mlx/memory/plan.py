"""How much memory there is, how much a sequence's cache will take, and how much may be used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from shared.cache_size import CacheSize
from shared.config import Settings
from worker.device.turns import Turn
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.classes import leaf_bytes, leaves, token_bytes

USABLE_SHARE = 0.9  # of the device's memory
_WORK_SHARE = 8  # an eighth of what the weights leave is for what passes compute
_MOST_WORK_BYTES = 2 << 30
_LEAST_CACHE_BYTES = 64 << 20
_PROBE_TOKENS = 8
_GROWTH_TOKENS = (256, 512)  # where a cache of an unknown class is measured, to see how it grows
_FREED_SHARE = 16


def machine_bytes() -> int:
    """Memory that the device may use: the GPU's recommended working set on a Mac, else the machine's memory."""
    info = mx.device_info()
    for name in ("max_recommended_working_set_size", "memory_size"):
        if int(info.get(name, 0)) > 0:
            return int(info[name])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measured_size(
    model: Any, layout: Layout, turn: Turn = nullcontext, probe: Sequence[Any] | None = None
) -> CacheSize:
    """On a short prompt (`probe`: the leaves that one has filled), and on longer ones where a layer keeps its tokens in
    a way of its own. Each pass has a `turn` at the device."""
    per_token, windows, states = 0, [], 0
    for kind, window, leaf in zip(layout.kinds, layout.windows, probe or probed(model, turn), strict=True):
        if type(leaf).__name__ in layout.unknown:
            continue
        if kind == "state":
            states += leaf_bytes(leaf)
            continue
        if kind == "tokens":
            per_token += token_bytes(leaf)
        else:
            windows.append((window, token_bytes(leaf)))
    if layout.unknown:
        shorter, longer = (_unknown_bytes(model, layout, tokens, turn) for tokens in _GROWTH_TOKENS)
        growth = max(0, longer - shorter) // (_GROWTH_TOKENS[1] - _GROWTH_TOKENS[0])
        per_token += growth
        states += max(0, shorter - growth * _GROWTH_TOKENS[0])
    return CacheSize(token_bytes=per_token, windows=tuple(windows), state_bytes=states)


def probed(model: Any, turn: Turn = nullcontext) -> list[Any]:
    """The leaves of a cache that holds a short prompt."""
    return _filled(model, _PROBE_TOKENS, turn)


def _filled(model: Any, tokens: int, turn: Turn) -> list[Any]:
    """The leaves of a cache that holds so many tokens."""
    cache = make_prompt_cache(model)
    with turn():
        model(mx.zeros((1, tokens), mx.int32), cache=cache)
        flat = leaves(cache)
        mx.eval([leaf.state for leaf in flat])
    return flat


def _unknown_bytes(model: Any, layout: Layout, tokens: int, turn: Turn) -> int:
    """What the leaves of unknown classes take of a cache that holds so many tokens."""
    flat = _filled(model, tokens, turn)
    return sum(leaf_bytes(leaf) for leaf in flat if type(leaf).__name__ in layout.unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What may be used in all, and how much of it by the prefix cache. `context_tokens` is what one sequence can have
    at most, of what the model takes."""

    limit_bytes: int
    cache_bytes: int
    context_tokens: int


def set_limits(plan: MemoryPlan) -> None:
    """Tell mlx: how much it may use, how much freed memory it may hold on to, and (Metal) what stays resident."""
    mx.set_memory_limit(plan.limit_bytes)
    mx.set_cache_limit(plan.limit_bytes // _FREED_SHARE)
    recommended = int(mx.device_info().get("max_recommended_working_set_size", 0))
    if recommended:
        mx.set_wired_limit(min(recommended, plan.limit_bytes))


def memory_limit(settings: Settings, machine: int) -> int:
    """What all workers of the host may use together."""
    return settings.memory_bytes or int(machine * USABLE_SHARE)


def weight_file_bytes(folder: Path) -> int:
    """About what a model's weights will take, before they are loaded."""
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def plan_memory(
    settings: Settings, size: CacheSize, weight_bytes: int, *, machine: int, model_tokens: int
) -> MemoryPlan:
    """Context and prefix cache together: both are what the weights leave, but for what passes compute, because a turn
    goes on in the memory of the last. So a conversation as long as the context offered is kept whole. The prefix
    cache is as large as set, else has room for `cache_max_slots` conversations of `cache_max_tokens` tokens, or for one
    of the whole context where that is more; what running requests need, it gives up."""
    limit = memory_limit(settings, machine)
    spare = max(0, limit - weight_bytes)
    usable = spare - min(spare // _WORK_SHARE, _MOST_WORK_BYTES)
    context = min(model_tokens, size.fitting_tokens(usable))
    slots = settings.cache_max_slots * size.predict(settings.cache_max_tokens)
    wanted = max(slots, size.predict(context), _LEAST_CACHE_BYTES)
    return MemoryPlan(
        limit_bytes=limit, cache_bytes=settings.cache_bytes or min(wanted, usable), context_tokens=context
    )
