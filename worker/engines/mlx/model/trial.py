"""Whether a model says the same in a batch as alone: tried once, when it is loaded.

mlx-lm's batch caches make an array of every row's offset and a mask of every row's padding. Not every model's code
expects that: one raises, another goes on and gives wrong logits.
"""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from worker.device.turns import Turn
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.classes import leaves

log = logging.getLogger(__name__)

# Models whose attention picks whole blocks of keys by where they lie in the cache, which padding moves. It shows only
# in prompts much longer than those tried here.
_BLOCKWISE = frozenset({"minimax_m3_vl"})
_SHORT_TOKENS, _LONG_TOKENS = 3, 24
_STEPS = 2
# Of the logits' spread. Rounding makes a few hundredths; what a padded row reads or where it stands makes 0.2 to 1.2.
_TOLERANCE = 0.15
# Where rounding makes more, as it can in deep models of many experts, rows without padding show how much.
_OF_ROUNDING = 3.0


def tried(model: Any, layout: Layout, turn: Turn = nullcontext) -> Layout:
    """The layout, which can be batched only if the model says the same in a batch as alone. Each pass has a `turn` at
    the device."""
    if not layout.can_batch or _is_batchable(model, turn):
        return layout
    log.warning("requests are decoded one by one: in a batch, this model would answer something else than alone")
    return replace(layout, can_batch=False)


def _is_batchable(model: Any, turn: Turn) -> bool:
    if getattr(model, "model_type", "") in _BLOCKWISE:
        return False
    try:
        padded = _difference(model, turn, _SHORT_TOKENS, _LONG_TOKENS)
        return padded < _TOLERANCE or padded < _OF_ROUNDING * _difference(model, turn, _LONG_TOKENS, _LONG_TOKENS)
    except Exception:  # whatever a model's code raises for what it does not expect
        log.info("a batch of two rows made the model raise", exc_info=True)
        return False


def _difference(model: Any, turn: Turn, *lengths: int) -> float:
    """How far the logits of two rows of these lengths are from those of each alone, as a part of their spread: the
    worse row's, in the better step, because rounding may make a router choose another expert now and then."""
    alone = [_prefilled(model, turn, length) for length in lengths]
    with turn():
        together = [one.merge([one]) for one in alone[0]]
        for mine, theirs in zip(together, alone[1], strict=True):
            mine.extend(theirs.merge([theirs]))
    nearest = [math.inf] * len(alone)
    for step in range(_STEPS):
        tokens = mx.array([[step + 1], [step + 2]], mx.int32)
        mixed = _passed(model, turn, tokens, together)
        for row, cache in enumerate(alone):
            expected = _passed(model, turn, tokens[row : row + 1], cache)
            with turn():
                nearest[row] = min(nearest[row], _distance(mixed[row], expected[0]))
    return max(nearest)


def _prefilled(model: Any, turn: Turn, length: int) -> list[Any]:
    cache: list[Any] = make_prompt_cache(model)
    _passed(model, turn, mx.arange(1, length + 1, dtype=mx.int32)[None], cache)
    return cache


def _passed(model: Any, turn: Turn, tokens: mx.array, cache: list[Any]) -> mx.array:
    """The logits behind each row's last token, once the pass is computed."""
    with turn():
        logits: mx.array = model(tokens, cache=cache)[:, -1].astype(mx.float32)
        mx.eval(logits, [leaf.state for leaf in leaves(cache)])
    return logits


def _distance(logits: mx.array, expected: mx.array) -> float:
    """Tokens that a model never says have logits of minus infinity, which count for nothing."""
    finite = mx.isfinite(expected) & mx.isfinite(logits)
    count = mx.maximum(finite.sum(), 1)
    mean = mx.where(finite, expected, 0).sum() / count
    spread = mx.where(finite, mx.square(expected - mean), 0).sum()
    error = mx.where(finite, mx.square(logits - expected), 0).sum()
    ratio: Any = mx.sqrt(error / spread).item()
    return ratio if math.isfinite(ratio) else math.inf
