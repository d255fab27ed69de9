"""What keys and values at 8 bits do to the next tokens: their distributions beside those of the exact cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from tests.bench.report import Table
from tests.models.random_checkpoint import PRESETS, standard_library_text, write_random_checkpoint
from tests.support.mlx_engine import Driver, message, request
from worker.engines.mlx.kv.classes import leaves
from worker.engines.mlx.kv.eight_bits import Packed

PREFIX_TOKENS, NEXT_TOKENS = 4096, 256
_CHUNK = 512


def measure_bits(folder: Path) -> Table:
    """Models of chance, made in `folder`: their attention is spread as that of no real model is, which is a harder case
    for the mean and says nothing of single heads that real models depend on."""
    table = Table(
        title=f"{NEXT_TOKENS} next tokens after {PREFIX_TOKENS:,} that are kept at 8 bits, beside the exact cache",
        head=("heads of", "bytes", "error of values", "same first choice", "mean KL", "worst KL", "log p off by"),
    )
    for head_dim in (64, 128):
        path = folder / f"bits{head_dim}"
        config = PRESETS["full"].config(256)
        write_random_checkpoint(path, {**config, "head_dim": head_dim, "num_hidden_layers": 6})
        table.add(str(head_dim), *_compare(path))
    return table


def _compare(path: Path) -> tuple[str, ...]:
    tokens = _tokens(path)
    model = load_model(path)[0]
    exact, packed = _prefilled(model, tokens), _prefilled(model, tokens)
    size, error = _pack(packed)
    rest = mx.array([tokens[PREFIX_TOKENS : PREFIX_TOKENS + NEXT_TOKENS]])
    one, other = (_log_probabilities(model(rest, cache=cache)[0]) for cache in (exact, packed))
    divergence = mx.sum(mx.exp(one) * (one - other), axis=-1)
    same = mx.mean(mx.argmax(one, axis=-1) == mx.argmax(other, axis=-1)).item()
    off = mx.mean(mx.abs(mx.max(one, axis=-1) - mx.take_along_axis(other, mx.argmax(one, axis=-1)[:, None], 1)[:, 0]))
    return (
        f"{size:.0%} of 16 bits",
        f"{error:.2%}",
        f"{same:.1%}",
        f"{mx.mean(divergence).item():.1e}",
        f"{mx.max(divergence).item():.1e}",
        f"{off.item():.1e}",
    )


def _tokens(path: Path) -> list[int]:
    driver = Driver(path)
    text = standard_library_text(8 * (PREFIX_TOKENS + NEXT_TOKENS))
    tokens: Sequence[int] = driver.engine.prepare(request("count", [message("user", text)])).payload.prompt.tokens
    driver.engine.unload()
    return list(tokens)


def _prefilled(model: Any, tokens: Sequence[int]) -> list[Any]:
    cache: list[Any] = make_prompt_cache(model)
    for start in range(0, PREFIX_TOKENS, _CHUNK):
        model(mx.array([tokens[start : start + _CHUNK]]), cache=cache)
        mx.eval([leaf.state for leaf in leaves(cache)])
    return cache


def _pack(cache: list[Any]) -> tuple[float, float]:
    """Keys and values become what comes back from 8 bits: bytes beside those of 16 bits a number, and the error beside
    the numbers, as root mean squares."""
    packed_bytes = full_bytes = 0
    errors, squares = [], []
    for leaf in leaves(cache):
        for name in ("keys", "values"):
            array = getattr(leaf, name)
            packed = Packed.of(array)
            assert packed is not None
            back = packed[:, :, :]
            packed_bytes += packed.numbers.nbytes + packed.scales.size * 2 + packed.offsets.size * 2
            full_bytes += array.size * 2
            errors.append(mx.mean((back - array) ** 2).item())
            squares.append(mx.mean(array**2).item())
            setattr(leaf, name, back)
    return packed_bytes / full_bytes, (sum(errors) / sum(squares)) ** 0.5


def _log_probabilities(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
