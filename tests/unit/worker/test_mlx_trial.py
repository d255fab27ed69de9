"""Models whose code in mlx-lm goes wrong in a batch are found when they are loaded, and decode their rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from shared.request import SamplingParams
from tests.models.architectures import build_architecture
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.model.trial import tried

# What goes wrong: a mask's axes meet the wrong ones, a row's offset is read from its padded keys, an offset is taken
# for a number, blocks of keys are counted from the padding.
WRONG_IN_BATCHES = ("gemma2", "afm7", "gpt_bigcode", "minimax_m3_vl")


@pytest.mark.parametrize("architecture", WRONG_IN_BATCHES)
def test_model_that_is_wrong_in_a_batch_answers_together_as_alone(architecture: str, tmp_path: Path) -> None:
    folder = build_architecture(architecture, tmp_path)
    sampling = SamplingParams(max_tokens=8, temperature=0.0, top_logprobs=0)
    requests = [
        request(str(i), [message("user", standard_library_text(20 + 400 * i))], sampling=sampling) for i in range(3)
    ]
    alone, together = Driver(folder, cache_bytes=1), Driver(folder, cache_bytes=1)
    expected = [alone.run(item)[0] for item in requests]
    answers = together.run(*requests)
    assert together.tokens == alone.tokens
    for mine, theirs in zip(answers, expected, strict=True):
        assert [entry.logprob for entry in mine.logprobs] == pytest.approx(
            [entry.logprob for entry in theirs.logprobs], abs=2e-3
        )


@pytest.mark.parametrize("preset", ["full", "window", "gpt-oss", "hybrid", "qwen3-next", "falcon-h1", "mamba2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_model_that_is_right_in_a_batch_is_batched(preset: str, dtype: str, random_checkpoint: CheckpointMaker) -> None:
    if preset == "gpt-oss" and dtype == "bfloat16":
        pytest.skip("mlx has no experts in bfloat16 on the CPU")
    model = load_model(random_checkpoint(preset, dtype=dtype))[0]
    assert tried(model, Layout.of(model)).can_batch


class Rough:
    """A model whose logits are off by as much as rounding can make, each time otherwise."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = model.layers

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        logits: mx.array = self.model(tokens, cache=cache)
        return logits + 0.2 * mx.std(logits) * mx.random.normal(logits.shape)


def test_rounding_alone_keeps_no_model_from_being_batched(random_checkpoint: CheckpointMaker) -> None:
    mx.random.seed(0)
    model = Rough(load_model(random_checkpoint("full"))[0])
    assert tried(model, Layout.of(model)).can_batch
