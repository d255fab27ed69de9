"""What the memory planner offers on Macs of each size with well-known models, and which heads of agents fit.

The caches are those of mlx-lm's own models, built with the layers, heads and windows of the real ones and next to
nothing else; the bytes of the weights are those of the published quantisations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from shared.cache_size import CacheSize
from shared.config import Settings
from tests.bench.report import Table
from tests.models.random_checkpoint import build_model
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.memory.plan import MemoryPlan, measured_size, plan_memory

MACS_GB = (16, 24, 32, 48, 64, 96, 128, 256, 512)
HEADS_TOKENS = (18_000, 25_000)  # what Claude Code sends before the first word, without and with a few MCP servers
_HEADS = tuple(f"{tokens // 1000}k head" for tokens in HEADS_TOKENS)
_SMALL_MAC_GB = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """`config` holds what decides on the cache; `context_tokens` is what the model was made for."""

    name: str
    weight_bytes: int
    context_tokens: int
    config: Mapping[str, Any]


def _config(model_type: str, layers: int, kv_heads: int, head_dim: int, **more: Any) -> dict[str, Any]:
    return {
        **{"model_type": model_type, "num_hidden_layers": layers, "num_key_value_heads": kv_heads},
        **{"num_attention_heads": kv_heads, "head_dim": head_dim, "hidden_size": 32, "intermediate_size": 32},
        **{"vocab_size": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 1 << 20},
        "tie_word_embeddings": True,
        **more,
    }


_FEW_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "decoder_sparse_step": 1}


def _mixture(layers: int) -> dict[str, Any]:
    return _config("qwen3_moe", layers, 4, 128, norm_topk_prob=True, mlp_only_layers=[], **_FEW_EXPERTS)


def _gpt_oss(layers: int) -> dict[str, Any]:
    kinds = ["sliding_attention", "full_attention"] * (layers // 2)
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    return _config("gpt_oss", layers, 8, 64, sliding_window=128, layer_types=kinds, **experts)


_QWEN3_NEXT = {
    **{"linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128},
    **{"linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "full_attention_interval": 4},
    **{"shared_expert_intermediate_size": 32, "mlp_only_layers": [], "partial_rotary_factor": 0.25},
    **_FEW_EXPERTS,
}

MODELS = (
    KnownModel(
        name="Qwen3 8B, 4 bits", weight_bytes=4_610_000_000, context_tokens=40_960, config=_config("qwen3", 36, 8, 128)
    ),
    KnownModel(
        name="gpt-oss 20B, MXFP4", weight_bytes=12_100_000_000, context_tokens=131_072, config=_gpt_oss(24)
    ),
    KnownModel(
        name="Qwen3 Coder 30B-A3B, 4 bits", weight_bytes=17_200_000_000, context_tokens=262_144, config=_mixture(48)
    ),
    KnownModel(
        name="Qwen3 32B, 8 bits", weight_bytes=34_800_000_000, context_tokens=40_960,
        config=_config("qwen3", 64, 8, 128),
    ),
    KnownModel(
        name="Llama 3.3 70B, 4 bits", weight_bytes=39_700_000_000, context_tokens=131_072,
        config=_config("llama", 80, 8, 128),
    ),
    KnownModel(
        name="Qwen3 Next 80B-A3B, 4 bits", weight_bytes=44_800_000_000, context_tokens=262_144,
        config=_config("qwen3_next", 48, 2, 256, **_QWEN3_NEXT),
    ),
    KnownModel(
        name="gpt-oss 120B, MXFP4", weight_bytes=63_400_000_000, context_tokens=131_072, config=_gpt_oss(36)
    ),
    KnownModel(
        name="Qwen3 235B-A22B, 4 bits", weight_bytes=132_300_000_000, context_tokens=262_144, config=_mixture(94)
    ),
)  # fmt: skip


def cache_size(known: KnownModel) -> CacheSize:
    """What a sequence's cache takes at 16 bits a number; measured at 32, in which states stay."""
    model = build_model(dict(known.config))
    model.set_dtype(mx.float32)
    size = measured_size(model, Layout.of(model))
    windows = tuple((window, token_bytes // 2) for window, token_bytes in size.windows)
    return CacheSize(token_bytes=size.token_bytes // 2, windows=windows, state_bytes=size.state_bytes)


def machine_bytes(mac_gb: int) -> int:
    """What macOS lets the GPU use: two thirds of a small Mac's memory, three quarters of a larger one's."""
    share = 2 / 3 if mac_gb <= _SMALL_MAC_GB else 3 / 4
    return int(mac_gb * share) << 30


def planned(known: KnownModel, size: CacheSize, mac_gb: int) -> MemoryPlan | None:
    """None where the weights do not fit."""
    plan = plan_memory(
        Settings(), size, known.weight_bytes, machine=machine_bytes(mac_gb), model_tokens=known.context_tokens
    )
    return plan if plan.limit_bytes > known.weight_bytes else None


def plan_table() -> Table:
    table = Table(
        title="What the planner offers with default settings, one model on the Mac",
        head=("Mac", "model", "bytes a token", "context", "cache in tokens", *_HEADS),
    )
    sizes = {known.name: cache_size(known) for known in MODELS}
    for mac_gb in MACS_GB:
        for known in MODELS:
            size = sizes[known.name]
            plan = planned(known, size, mac_gb)
            if plan is None:
                continue
            budget = size.fitting_tokens(plan.cache_bytes)
            heads = (_verdict(head, plan.context_tokens, budget) for head in HEADS_TOKENS)
            table.add(
                f"{mac_gb} GB", known.name, f"{size.token_bytes:,}", f"{plan.context_tokens:,}", f"{budget:,}", *heads
            )
    return table


def _verdict(head_tokens: int, context_tokens: int, budget_tokens: int) -> str:
    if head_tokens >= context_tokens:
        return "refused"
    return "kept" if head_tokens <= budget_tokens else "in part"
