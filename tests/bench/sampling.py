"""What sampling a step costs at a large vocabulary, beside mlx-lm's own samplers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_sampler

from tests.bench.report import Table, median, ratio, seconds
from worker.engines.mlx.decode.sampling import BatchSampler, RowParams, RowSampler

VOCABULARY = 152_000
ROWS = (1, 16)
_REPEATS = 15

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {"temperature": 1.0},
    "min-p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "top-k 20": {"temperature": 1.0, "top_k": 20},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "top-k 20, top-p 0.95": {"temperature": 0.7, "top_k": 20, "top_p": 0.95},
}


def measure_sampling() -> Table:
    """Both sample the same logits for all rows at once; mlx-lm's wants logprobs, which are part of its cost."""
    table = Table(
        title=f"Sampling one step at a vocabulary of {VOCABULARY:,}, median of {_REPEATS}",
        head=("", "rows", "this stack", "mlx-lm", "ratio"),
    )
    for name, settings in SETTINGS.items():
        for rows in ROWS:
            logits = mx.random.normal((rows, VOCABULARY), key=mx.random.key(rows)).astype(mx.float16) * 4
            mx.eval(logits)
            ours_s, theirs_s = _alternated(_ours(rows, settings, logits), _theirs(settings, logits))
            table.add(name, f"{rows}", seconds(ours_s), seconds(theirs_s), ratio(theirs_s, ours_s))
    return table


def _ours(rows: int, settings: dict[str, Any], logits: mx.array) -> Callable[[], mx.array]:
    params = RowParams(**settings)
    sampler = BatchSampler([RowSampler(params, prompt=[], vocab=VOCABULARY) for _ in range(rows)])
    return lambda: sampler.sample(logits)


def _theirs(settings: dict[str, Any], logits: mx.array) -> Callable[[], mx.array]:
    sample = make_sampler(
        temp=settings["temperature"],
        top_p=settings.get("top_p", 0.0),
        top_k=settings.get("top_k", 0),
        min_p=settings.get("min_p", 0.0),
    )

    def step() -> mx.array:
        tokens: mx.array = sample(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return tokens

    return step


def _alternated(*steps: Callable[[], mx.array]) -> list[float]:
    """Seconds of each, in turns, so that whatever disturbs the machine disturbs all."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        mx.eval(step())
    for _ in range(_REPEATS):
        for taken, step in zip(times, steps, strict=True):
            began_s = time.perf_counter()
            mx.eval(step())
            taken.append(time.perf_counter() - began_s)
    return [median(taken) for taken in times]
