"""Random checkpoints of the families whose images mlx-vlm reads: its own model classes, its own processors, a
vocabulary with the family's control tokens, and seeded weights. What such a model says is noise, but other noise for
another image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
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
    module: str = ""  # of mlx-vlm, where it is not the model_type


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

FAMILIES: dict[str, Family] = {
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
        processor={
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "patch_size": 14,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "min_pixels": 3136,
            "max_pixels": 1003520,
        },
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
    model = _model(family.module or name, json.loads(json.dumps(config)))
    weights = {key: _spread(key, value) for key, value in tree_flatten(model.parameters())}
    _say_words_only(weights, tokenizer)
    write_checkpoint(out, config, weights, tokenizer)
    template = out / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf8").replace(IMAGE_PATCH, family.shown), encoding="utf8")
    (out / "preprocessor_config.json").write_text(json.dumps(family.processor), encoding="utf8")
    return out


def _model(module_name: str, config: dict[str, Any]) -> Any:
    from mlx_vlm.utils import update_module_configs

    module = import_module(f"mlx_vlm.models.{module_name}")
    config.setdefault("text_config", {})
    parsed = module.ModelConfig.from_dict(config)
    return module.Model(update_module_configs(parsed, module, config, ["text", "vision"]))
