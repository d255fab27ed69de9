"""What a sequence's cache is expected to take, for layers that keep tokens in a way of their own."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from tests.models.architectures import build_architecture
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.classes import cache_bytes
from worker.engines.mlx.memory.plan import CacheSize


@pytest.mark.parametrize("architecture", ["llama", "llama4", "deepseek_v32", "deepseek_v41", "qwen3_next"])
@pytest.mark.parametrize("tokens", [2048, 4096])
def test_expected_bytes_are_those_of_a_real_cache(architecture: str, tokens: int, tmp_path: Path) -> None:
    model = load_model(build_architecture(architecture, tmp_path))[0]
    cache = make_prompt_cache(model)
    for _ in range(tokens // 64):
        model(mx.zeros((1, 64), mx.int32), cache=cache)
    size = CacheSize.of(model, Layout.of(model))
    # mlx-lm grows buffers by whole steps, which weighs in caches as small as these.
    assert size.predict(tokens) == pytest.approx(cache_bytes(cache), rel=0.25)
