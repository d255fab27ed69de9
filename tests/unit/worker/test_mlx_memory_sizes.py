"""What a sequence's cache is expected to take, for layers that keep tokens in a way of their own."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from shared.cache_size import CacheSize
from shared.config import Settings
from tests.bench.plan import machine_bytes, plan_table
from tests.models.architectures import build_architecture
from tests.support.models import REPOSITORY
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.classes import cache_bytes
from worker.engines.mlx.memory.plan import measured_size, plan_memory


@pytest.mark.parametrize("architecture", ["llama", "llama4", "deepseek_v32", "deepseek_v41", "qwen3_next"])
@pytest.mark.parametrize("tokens", [2048, 4096])
def test_expected_bytes_are_those_of_a_real_cache(architecture: str, tokens: int, tmp_path: Path) -> None:
    model = load_model(build_architecture(architecture, tmp_path))[0]
    cache = make_prompt_cache(model)
    for _ in range(tokens // 64):
        model(mx.zeros((1, 64), mx.int32), cache=cache)
    size = measured_size(model, Layout.of(model))
    # mlx-lm grows buffers by whole steps, which weighs in caches as small as these.
    assert size.predict(tokens) == pytest.approx(cache_bytes(cache), rel=0.25)


MIXTURE_30B = CacheSize(token_bytes=98_304, windows=(), state_bytes=0)
WEIGHT_BYTES = 17_200_000_000


def test_context_and_cache_are_planned_together_so_that_what_is_offered_is_kept() -> None:
    plan = plan_memory(Settings(), MIXTURE_30B, WEIGHT_BYTES, machine=machine_bytes(32), model_tokens=262_144)
    kept_tokens = MIXTURE_30B.fitting_tokens(plan.cache_bytes)
    assert 25_000 < plan.context_tokens == kept_tokens
    assert WEIGHT_BYTES + plan.cache_bytes < 0.99 * plan.limit_bytes, "passes need some of it"


@pytest.mark.parametrize(("cache_bytes", "mac_gb"), [(0, 64), (0, 512), (1 << 30, 64), (0, 16)])
def test_a_plan_stays_within_what_is_wanted_and_what_is_there(cache_bytes: int, mac_gb: int) -> None:
    settings = Settings(cache_bytes=cache_bytes, cache_max_slots=2, cache_max_tokens=50_000)
    plan = plan_memory(settings, MIXTURE_30B, WEIGHT_BYTES, machine=machine_bytes(mac_gb), model_tokens=60_000)
    wanted = cache_bytes or 2 * MIXTURE_30B.predict(50_000)
    assert (plan.cache_bytes, plan.context_tokens) == ((wanted, 60_000) if mac_gb > 16 else (cache_bytes, 0))


@pytest.mark.slow
def test_the_page_on_memory_has_the_table_that_the_planner_prints() -> None:
    page = (REPOSITORY / "docs" / "cache-and-memory.md").read_text()
    assert plan_table().render() in page
