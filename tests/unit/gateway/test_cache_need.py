"""What a sequence's cache will take, from config.json alone: compared with the caches that mlx-lm's models keep."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gateway.command.pulling.cache_need import _FAMILIES, UnknownCacheError, cache_size
from shared.cache_size import CacheSize

# Widths that tell one another apart, where tests of models take the same ones. `cohere2` wants its heads to fill it.
WIDTHS = {
    **{"head_dim": 32, "global_head_dim": 48, "kv_lora_rank": 24, "q_lora_rank": 20},
    **{"qk_nope_head_dim": 32, "v_head_dim": 12, "linear_num_value_heads": 4, "linear_value_head_dim": 16},
}
SAME_WIDTHS = ("cohere2",)
RENAMED = {"kimi_k2": "deepseek_v3", "minimax_m2": "minimax", "mistral": "llama", "qwen2_5_vl": "qwen2_vl"}
LLAMA = {"model_type": "llama", "num_hidden_layers": 80, "num_attention_heads": 64, "hidden_size": 8192}


def with_widths(value: Any) -> Any:
    if not isinstance(value, dict):
        return copy.deepcopy(value)
    return {
        name: WIDTHS[name] if name in WIDTHS and isinstance(each, int) else with_widths(each)
        for name, each in value.items()
    }


@pytest.mark.parametrize("family", sorted(_FAMILIES))
def test_what_is_reckoned_is_what_the_model_keeps(family: str) -> None:
    mx = pytest.importorskip("mlx.core", reason="it comes with the extra mlx")
    from tests.models.architectures import tiny_config
    from tests.models.random_checkpoint import build_model
    from worker.engines.mlx.kv.cache import Layout
    from worker.engines.mlx.memory.plan import measured_size

    config = tiny_config(RENAMED.get(family, family))
    config = config if family in SAME_WIDTHS else with_widths(config)
    said = {**copy.deepcopy(config), "model_type": family}
    model = build_model(config)
    model.set_dtype(mx.float32)
    kept = measured_size(model, Layout.of(model))
    windows = tuple((window, token_bytes // 2) for window, token_bytes in kept.windows)
    found = CacheSize(token_bytes=kept.token_bytes // 2, windows=windows, state_bytes=kept.state_bytes)
    assert cache_size(said) == found, "at two bytes a number, where it was measured at four"


def test_well_known_models_take_what_is_published_of_them() -> None:
    llama_70b = cache_size({**LLAMA, "num_key_value_heads": 8})
    assert llama_70b.predict(1) == 320 * 1024
    deepseek = {"model_type": "deepseek_v3", "num_hidden_layers": 61, "num_attention_heads": 128}
    assert cache_size({**deepseek, "kv_lora_rank": 512, "qk_rope_head_dim": 64}).predict(1) == 61 * 576 * 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "no object"),
        ([], "no object"),
        ({}, "type 'None'"),
        ({"model_type": "from_the_future"}, "type 'from_the_future' keeps is known once it is loaded"),
        ({"model_type": ["llama"]}, "known once it is loaded"),
        ({"model_type": "llama"}, "`num_hidden_layers`"),
        ({**LLAMA, "num_hidden_layers": 10**15}, "`num_hidden_layers`"),
        ({**LLAMA, "num_hidden_layers": True}, "`num_hidden_layers`"),
        ({**LLAMA, "num_attention_heads": "64"}, "`num_attention_heads`"),
        ({**LLAMA, "head_dim": -1}, "`head_dim`"),
        ({**LLAMA, "layer_types": ["from_the_future"]}, "layers of the kind 'from_the_future'"),
        ({**LLAMA, "layer_types": {"a": 1}}, "`layer_types` that nobody knows"),
        ({**LLAMA, "layer_types": ["sliding_attention"]}, "`sliding_window`"),
        ({**LLAMA, "model_type": "gemma3_text"}, "`num_key_value_heads`"),
        ({**LLAMA, "model_type": "cohere2", "sliding_window_pattern": 0}, "no order of layers"),
        ({**LLAMA, "model_type": "lfm2", "conv_L_cache": 3}, "`layer_types`"),
    ],
)
def test_what_is_not_known_is_said_in_words(config: object, reason: str) -> None:
    with pytest.raises(UnknownCacheError, match=reason):
        cache_size(config)


def test_a_config_of_somebody_who_means_harm_costs_nothing() -> None:
    size = cache_size({**LLAMA, "num_hidden_layers": 1 << 24, "num_key_value_heads": 1 << 24, "head_dim": 1 << 24})
    assert size.predict(1) > 0
    assert cache_size({**LLAMA, "num_attention_heads": 0, "num_key_value_heads": 0}).predict(9) == 0
