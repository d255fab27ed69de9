"""A cache that tokens were taken out of is the cache that never had them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_model

from tests.models.architectures import build_architecture
from tests.support.models import CheckpointMaker, some
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.rewind import Mark, can_rewind, drop_last

PRESETS = ("full", "window", "gemma3", "gpt-oss", "hybrid", "qwen3-next", "mamba2", "falcon-h1")
# What their layers keep is put together in other ways than in those.
RARER = (
    "baichuan_m1",
    "bailing_moe_v3",
    "deepseek_v32",
    "gemma3n",
    "iquestloopcoder",
    "kimi_linear",
    "longcat_flash_ngram",
    "nemotron_h",
    "olmo_hybrid",
    "plamo2",
    "recurrent_gemma",
    "rwkv7",
)
LENGTHS = (1, 126, 127, 128, 129, 254, 255, 256, 257, 300)  # windows are of 128 and 256
NUMBERS = random.Random(1)
TEXT = [NUMBERS.randrange(2000) for _ in range(340)]
OTHER = [NUMBERS.randrange(2000) for _ in range(16)]


class Reader:
    """A model with a running cache."""

    def __init__(self, model: Any, tokens: list[int], *, one_by_one: int = 0) -> None:
        self.model = model
        self.cache = make_prompt_cache(model)
        whole = len(tokens) - one_by_one
        for part in [tokens[:whole], *([token] for token in tokens[whole:])]:
            if part:
                self.read(part)

    def read(self, tokens: list[int]) -> mx.array:
        """The last logits [vocab]."""
        logits: mx.array = self.model(mx.array([tokens]), cache=self.cache)[0, -1]
        mx.eval(logits)
        return logits

    def assert_goes_on_like(self, other: Reader, tokens: list[int]) -> None:
        for part in (tokens[:1], tokens[1:5], tokens[5:6], tokens[6:7], tokens[7:12]):
            assert mx.allclose(self.read(part), other.read(part), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("preset", some(PRESETS, "window", "hybrid"))
@pytest.mark.parametrize("one_by_one", some((0, 3), 3))
def test_a_cache_goes_back_to_where_it_was_marked(
    preset: str, one_by_one: int, random_checkpoint: CheckpointMaker
) -> None:
    check_goes_back(load_model(random_checkpoint(preset))[0], one_by_one)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", RARER)
def test_so_does_one_of_rarer_layers(architecture: str, tmp_path: Path) -> None:
    check_goes_back(load_model(build_architecture(architecture, tmp_path))[0], 3)


def check_goes_back(model: Any, one_by_one: int) -> None:
    for length in LENGTHS:
        read = TEXT[:length]
        reader = Reader(model, read, one_by_one=min(one_by_one, length - 1))
        assert can_rewind(reader.cache)
        mark = Mark(reader.cache)
        for part in (OTHER[:1], OTHER[1:4], OTHER[4:5], OTHER[5:6]):
            reader.read(part)
        mark.restore(reader.cache)
        reader.assert_goes_on_like(Reader(model, read), TEXT[length:])


@pytest.mark.parametrize("preset", some(PRESETS[:4], "full", "window"))
@pytest.mark.parametrize("kept_dropped", some(((1, 1), (1, 16), (5, 3)), (5, 3)))
def test_the_end_of_a_pass_is_taken_out(
    preset: str, kept_dropped: tuple[int, int], random_checkpoint: CheckpointMaker
) -> None:
    kept, dropped = kept_dropped
    model, _ = load_model(random_checkpoint(preset))
    assert not Layout.of(model).has_state
    for length in LENGTHS:
        reader = Reader(model, TEXT[:length], one_by_one=min(2, length - 1))
        reader.read(TEXT[length : length + kept] + OTHER[:dropped])
        drop_last(reader.cache, dropped)
        reader.assert_goes_on_like(Reader(model, TEXT[: length + kept]), TEXT[length + kept :])


def test_caches_of_other_kinds_are_left_alone() -> None:
    assert not can_rewind([QuantizedKVCache()])
    assert not can_rewind([RotatingKVCache(max_size=64, keep=4)])
