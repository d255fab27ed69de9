"""Random checkpoints of the families whose images mlx-vlm reads: its own model classes, its own processors, a
vocabulary with the family's control tokens, and seeded weights. What such a model says is noise, but other noise for
another image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.models.random_checkpoint import (
    IMAGE_PATCH,
    SPECIAL,
    VOCABULARY,
    _say_words_only,
    _spread,
    tokenizer_json,
    write_checkpoint,
)

_WIDTH = 64
_TEXT = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "rope_theta": 100000.0,
    "max_position_embeddings": 65536,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`tokens` are its control tokens, and `shown` those of them that its template writes for an image. `config` is
    completed with the ids that it names by token. `processor` is its preprocessor_config.json."""

    tokens: tuple[str, ...]
    shown: str
    ids: Mapping[str, str]
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    also: Mapping[str, Any] | None = None  # its processor_config.json
    named: Mapping[str, str] = field(default_factory=dict)  # tokens that its tokenizer knows by name


_PIXTRAL_TOWER = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "rope_theta": 10000.0,
}
_QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}

_QWEN_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "min_pixels": 3136,
    "max_pixels": 1003520,
}
_QWEN3_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": _WIDTH,
    "num_heads": 2,
    "patch_size": 16,
    "num_position_embeddings": 16,
}
_TURNS = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "shared_expert_intermediate_size": 64,
}
_QWEN3_5_TEXT = {
    **_TEXT,
    "model_type": "qwen3_5_text",
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
    "rope_parameters": {**_TURNS, "mrope_section": [2, 1, 1], "rope_theta": 100000.0, "partial_rotary_factor": 0.5},
}

FAMILIES: dict[str, Family] = {
    "gemma3": Family(
        tokens=("<start_of_image>", "<image_soft_token>", "<end_of_image>"),
        shown="<start_of_image>",
        ids={"image_token_index": "<image_soft_token>"},
        named={"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"},
        config={
            "model_type": "gemma3",
            "hidden_size": _WIDTH,
            "vocab_size": VOCABULARY,
            "text_config": {
                **_TEXT,
                "model_type": "gemma3_text",
                "tie_word_embeddings": True,
                "sliding_window": 64,
                "sliding_window_pattern": 2,
                "query_pre_attn_scalar": 16,
                "rope_theta": 1000000.0,
                "rope_local_base_freq": 10000.0,
                "mm_tokens_per_image": 64,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "image_size": 224,
                "patch_size": 14,
            },
        },
        processor={
            "image_processor_type": "Gemma3ImageProcessor",
            "processor_class": "Gemma3Processor",
            "size": {"height": 224, "width": 224},
            "image_seq_length": 64,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        also={"image_seq_length": 64, "processor_class": "Gemma3Processor"},
    ),
    "lfm2-vl": Family(
        tokens=("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
        shown="<image>",
        ids={"image_token_id": "<image>"},
        config={
            "model_type": "lfm2-vl",
            "text_config": {
                **_TEXT,
                "num_hidden_layers": 3,
                "model_type": "lfm2",
                "norm_eps": 1e-6,
                "conv_bias": False,
                "conv_L_cache": 3,
                "block_dim": _WIDTH,
                "block_ff_dim": 128,
                "block_multiple_of": 1,
                "block_ffn_dim_multiplier": 1.0,
                "block_auto_adjust_ff_dim": False,
                "layer_types": ["conv", "full_attention", "conv"],
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "model_type": "siglip2_vision_model",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "num_patches": 16,
            },
            "projector_hidden_size": 64,
            "do_image_splitting": False,
        },
        processor={
            "image_processor_type": "Lfm2VlImageProcessor",
            "processor_class": "Lfm2VlProcessor",
            "do_image_splitting": False,
            "min_image_tokens": 4,
            "max_image_tokens": 64,
        },
    ),
    "pixtral": Family(
        tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        shown="[IMG]",
        ids={"image_token_index": "[IMG]"},
        config={
            "model_type": "pixtral",
            "text_config": {**_TEXT, "model_type": "mistral"},
            "vision_config": _PIXTRAL_TOWER,
            "vision_feature_layer": -1,
        },
        processor={
            "image_processor_type": "PixtralImageProcessor",
            "processor_class": "PixtralProcessor",
            "patch_size": {"height": 14, "width": 14},
            "size": {"longest_edge": 224},
            "image_mean": [0.48, 0.46, 0.41],
            "image_std": [0.27, 0.26, 0.28],
        },
    ),
    "qwen2_vl": Family(
        tokens=_QWEN_TOKENS,
        shown="<|vision_start|><|image_pad|><|vision_end|>",
        ids=_QWEN_IDS,
        config={
            "model_type": "qwen2_vl",
            **_TEXT,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "vision_config": {
                "model_type": "qwen2_vl",
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": _WIDTH,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 14,
                "spatial_patch_size": 14,
            },
        },
        processor={**_QWEN_PROCESSOR, "processor_class": "Qwen2VLProcessor"},
    ),
    "qwen3_vl": Family(
        tokens=_QWEN_TOKENS,
        shown="<|vision_start|><|image_pad|><|vision_end|>",
        ids=_QWEN_IDS,
        config={
            "model_type": "qwen3_vl",
            "text_config": {**_TEXT, "model_type": "qwen3_vl_text", "num_hidden_layers": 3, "rope_scaling": _TURNS},
            "vision_config": {**_QWEN3_TOWER, "model_type": "qwen3_vl", "deepstack_visual_indexes": [0, 1]},
        },
        processor={**_QWEN_PROCESSOR, "processor_class": "Qwen3VLProcessor", "patch_size": 16},
    ),
    "qwen3_vl_moe": Family(
        tokens=_QWEN_TOKENS,
        shown="<|vision_start|><|image_pad|><|vision_end|>",
        ids=_QWEN_IDS,
        config={
            "model_type": "qwen3_vl_moe",
            "text_config": {
                **_TEXT,
                **_EXPERTS,
                "model_type": "qwen3_vl_moe_text",
                "num_hidden_layers": 3,
                "rope_scaling": _TURNS,
            },
            "vision_config": {**_QWEN3_TOWER, "model_type": "qwen3_vl_moe", "deepstack_visual_indexes": [0, 1]},
        },
        processor={**_QWEN_PROCESSOR, "processor_class": "Qwen3VLProcessor", "patch_size": 16},
    ),
    "qwen3_5": Family(
        tokens=_QWEN_TOKENS,
        shown="<|vision_start|><|image_pad|><|vision_end|>",
        ids=_QWEN_IDS,
        config={
            "model_type": "qwen3_5",
            "text_config": _QWEN3_5_TEXT,
            "vision_config": {**_QWEN3_TOWER, "model_type": "qwen3_5", "deepstack_visual_indexes": []},
        },
        processor={**_QWEN_PROCESSOR, "processor_class": "Qwen3VLProcessor", "patch_size": 16},
    ),
    "qwen3_5_moe": Family(
        tokens=_QWEN_TOKENS,
        shown="<|vision_start|><|image_pad|><|vision_end|>",
        ids=_QWEN_IDS,
        config={
            "model_type": "qwen3_5_moe",
            "text_config": {**_QWEN3_5_TEXT, **_EXPERTS, "model_type": "qwen3_5_moe_text"},
            "vision_config": {**_QWEN3_TOWER, "model_type": "qwen3_5_moe", "deepstack_visual_indexes": []},
        },
        processor={**_QWEN_PROCESSOR, "processor_class": "Qwen3VLProcessor", "patch_size": 16},
    ),
    "mistral3": Family(
        tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        shown="[IMG]",
        ids={"image_token_index": "[IMG]"},
        config={
            "model_type": "mistral3",
            "text_config": {**_TEXT, "model_type": "mistral"},
            "vision_config": _PIXTRAL_TOWER,
            "spatial_merge_size": 2,
            "vision_feature_layer": -1,
        },
        processor={
            "image_processor_type": "PixtralImageProcessor",
            "processor_class": "PixtralProcessor",
            "patch_size": {"height": 14, "width": 14},
            "size": {"longest_edge": 224},
            "image_mean": [0.48, 0.46, 0.41],
            "image_std": [0.27, 0.26, 0.28],
        },
    ),
    "qwen2_5_vl": Family(
        tokens=_QWEN_TOKENS,
        shown="<|vision_start|><|image_pad|><|vision_end|>",
        ids=_QWEN_IDS,
        config={
            "model_type": "qwen2_5_vl",
            **_TEXT,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "vision_config": {
                "model_type": "qwen2_5_vl",
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "out_hidden_size": _WIDTH,
                "num_heads": 2,
                "patch_size": 14,
                "spatial_patch_size": 14,
                "fullatt_block_indexes": [1],
            },
        },
        processor=_QWEN_PROCESSOR,
    ),
}


def build_vision_checkpoint(name: str, out: Path, *, seed: int = 0) -> Path:
    """Write the family's random checkpoint to the folder `out`, in the names that mlx-vlm's own conversion gives its
    weights, and return `out`."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    family = FAMILIES[name]
    tokenizer = tokenizer_json(family.tokens)
    config = json.loads(json.dumps(family.config))
    ids = {token: len(SPECIAL) + index for index, token in enumerate(family.tokens)}
    config |= {key: ids[token] for key, token in family.ids.items()}
    config["max_position_embeddings"] = 65536
    mx.random.seed(seed)
    model = _model(json.loads(json.dumps(config)))
    weights = {key: _spread(key, value) for key, value in tree_flatten(model.parameters())}
    if config.get("text_config", {}).get("tie_word_embeddings"):
        weights.pop("language_model.lm_head.weight", None)
    _say_words_only(weights, tokenizer)
    write_checkpoint(out, config, weights, tokenizer)
    template = out / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf8").replace(IMAGE_PATCH, family.shown), encoding="utf8")
    (out / "preprocessor_config.json").write_text(json.dumps(family.processor), encoding="utf8")
    if family.also is not None:
        (out / "processor_config.json").write_text(json.dumps(family.also), encoding="utf8")
    if family.named:
        file = out / "tokenizer_config.json"
        known = {**json.loads(file.read_text()), **family.named, "extra_special_tokens": dict(family.named)}
        file.write_text(json.dumps(known), encoding="utf8")
    return out


def _model(config: dict[str, Any]) -> Any:
    from mlx_vlm.utils import get_model_and_args, update_module_configs

    module, _ = get_model_and_args(config)
    config.setdefault("text_config", {})
    parsed = module.ModelConfig.from_dict(config)
    return module.Model(update_module_configs(parsed, module, config, ["text", "vision"]))
