"""A tiny config of every architecture that mlx-lm has, with every kind of layer that the family knows."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import mlx_lm.models

from tests.models.random_checkpoint import VOCABULARY, write_random_checkpoint

WINDOW = 96
_SLIDING_THEN_FULL = ["sliding_attention", "full_attention"]

# Fields by the names that most families give them; each takes the ones that it knows.
_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-6,
    "layer_norm_epsilon": 1e-6,
    "norm_eps": 1e-6,
    "rope_theta": 100000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "sliding_window": WINDOW,
    # Experts, the first layer dense where a family has that.
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "moe_layer_freq": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    # Latent attention.
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    # Scales.
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.25,
    "logits_scaling": 1.0,
    "residual_multiplier": 0.5,
}
_WINDOWED = {"layer_types": _SLIDING_THEN_FULL}
_RECURRENT = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
_INDEXER = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 64}

_GEMMA4 = {
    "num_hidden_layers": 4,
    "layer_types": _SLIDING_THEN_FULL * 2,
    "num_kv_shared_layers": 2,
    "global_head_dim": 32,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}
_KIMI_LINEAR = {
    "linear_attn_config": {"kda_layers": [1], "num_heads": 2, "head_dim": 32, "short_conv_kernel_size": 4},
    "num_experts_per_token": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
_LFM2 = {
    "layer_types": ["conv", "full_attention"],
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 64,
    "block_ff_dim": 96,
    "block_multiple_of": 1,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
}
_LLAMA4_SCALING = {
    "rope_theta": 100000.0,
    "type": "yarn",
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 256,
}
_YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 256,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
}
_LONGCAT = {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "ffn_hidden_size": 96,
    "moe_topk": 2,
    "expert_ffn_hidden_size": 32,
    "zero_expert_num": 2,
    "num_layers": 2,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "afm7": {
        "hidden_dim": 64,
        "num_layers": 3,
        "num_kv_reuse_layers": 1,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
    "afmoe": {**_WINDOWED, "num_dense_layers": 1},
    "apertus": {"post_norm": False, "qk_norm": True},
    "baichuan_m1": {"tie_word_embeddings": False, "sliding_window_layers": [1], "conv_window": 2},
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 2, "num_key_value_heads": 4},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 2, "num_key_value_heads": 4},
    "bailing_moe_v3": {
        "model_type": "bailing_hybrid",
        "architectures": ["BailingMoeV3ForCausalLM"],
        "layer_group_size": 2,
        "moe_shared_expert_intermediate_size": 32,
    },
    "dbrx": {
        "tie_word_embeddings": False,
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 100000.0},
    },
    "cohere2": {"sliding_window_pattern": 2},
    "deepseek_v2": {"topk_method": "gready", "rope_scaling": _YARN},
    "deepseek_v32": _INDEXER,
    "deepseek_v41": {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "o_groups": 2,
        "o_lora_rank": 16,
        "index_head_dim": 32,
        "index_n_heads": 2,
        "index_topk": 16,
        "compress_ratios": [0, 4, 4, 4],
        "kv_source_layer_ids": [1, 3],
        "index_source_layer_ids": [1, 3],
        "candidate_source_layer_id": 1,
        "candidate_topk_blocks": 8,
        "hc_mult": 2,
        "rms_norm_eps": 1e-6,
    },
    "dots1": {"scoring_func": "noaux_tc"},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_intermediate_size": 32, "moe_k": 2, "moe_num_shared_experts": 1},
    "exaone": {"num_layers": 2},
    "exaone4": {**_WINDOWED, "sliding_window_pattern": "LG"},
    "exaone_moe": {**_WINDOWED, "is_moe_layer": [False, True]},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_d_head": 32,
        "mamba_n_heads": 2,
        "mamba_d_state": 32,
        "mamba_n_groups": 1,
        "mamba_d_conv": 4,
    },
    "gear": {"num_hidden_layers": 3, "layer_types": ["conv_mixer", *_SLIDING_THEN_FULL]},
    "gemma3": {"text_config": {"model_type": "gemma3_text", "sliding_window_pattern": 2}},
    "gemma3_text": {"sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    "gemma3n": {
        "text_config": {
            "num_hidden_layers": 4,
            "layer_types": _SLIDING_THEN_FULL * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCABULARY,
            "rope_local_base_freq": 10000.0,
            "final_logit_softcapping": 30.0,
            "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
            "hidden_size_per_layer_input": 8,
            "altup_num_inputs": 2,
            "altup_coef_clip": 120.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 8,
        }
    },
    "gemma4": {"text_config": {"model_type": "gemma4_text", **_GEMMA4}},
    "gemma4_text": _GEMMA4,
    "glm4_moe": {"use_qk_norm": True},
    "glm4_moe_lite": {"num_key_value_heads": 4},
    "glm_moe_dsa": {**_INDEXER, "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}},
    "gpt2": {"n_ctx": 2048, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 2048},
    "gpt_bigcode": {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 2048, "n_inner": 128},
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.5},
    "gptj": {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 2048, "rotary_dim": 8},
    "gpt_oss": _WINDOWED,
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 32,
        "mamba_proj_bias": False,
        "mamba_d_state": 32,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    "hunyuan": {
        "num_hidden_layers": 4,
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    },
    "hunyuan_v1_dense": {"rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"}},
    "iquestloopcoder": {"loop_window_size": 64},
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 8,
        "mamba_expand": 2,
    },
    "kimi_k25": {"text_config": {"model_type": "kimi_k2"}},
    "kimi_k3": {"text_config": {"model_type": "kimi_linear", **_KIMI_LINEAR}},
    "kimi_linear": {**_KIMI_LINEAR, "model_max_length": 32768},
    "kimi_vl": {"text_config": {}},
    "laguna": _WINDOWED,
    "lfm2": _LFM2,
    "lfm2-vl": {"text_config": _LFM2},
    "lfm2_moe": {**_LFM2, "use_expert_bias": True, "num_dense_layers": 1},
    "lille-130m": {"block_size": 32768, "n_embd": 64, "n_head": 4, "n_kv_heads": 2, "n_layer": 2},
    "llama": _WINDOWED,
    "llama4": {
        "text_config": {
            "num_hidden_layers": 4,
            "attention_chunk_size": 256,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 96,
            "use_qk_norm": True,
            "num_experts_per_tok": 1,
        }
    },
    "llama4_text": {"intermediate_size_mlp": 96, "no_rope_layers": [1, 0], "use_qk_norm": True},
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": {**_LONGCAT, "ngram_vocab_size_ratio": 2, "emb_neighbor_num": 3, "emb_split_num": 2},
    "mamba": {
        "intermediate_size": 128,
        "state_size": 8,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "mamba2": {
        "num_heads": 4,
        "head_dim": 32,
        "intermediate_size": 128,
        "state_size": 32,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_conv_bias": True,
        "time_step_limit": [0.0, 10.0],
        "time_step_rank": "auto",
    },
    "mellum": {
        **_WINDOWED,
        "rope_parameters": {kind: {"rope_theta": 10000.0, "rope_type": "default"} for kind in _SLIDING_THEN_FULL},
    },
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [1, 0],
        "moe_layer_freq": [0, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": WINDOW,
        "layernorm_epsilon": 1e-6,
        "swa_rope_theta": 10000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    "minicpm": {"tie_word_embeddings": False, "dim_model_base": 64, "scale_depth": 1.4, "scale_emb": 2},
    "minicpm3": {
        "tie_word_embeddings": False,
        "rope_scaling": {
            "type": "longrope",
            "original_max_position_embeddings": 256,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
        },
        "dim_model_base": 64,
        "scale_depth": 1.4,
        "scale_emb": 2,
    },
    "minimax": {"rotary_dim": 8},
    "minimax_m3_vl": {
        "text_config": {
            "dense_intermediate_size": 96,
            "moe_layer_freq": [0, 1],
            "sparse_attention_config": {
                "sparse_num_index_heads": 2,
                "sparse_index_dim": 16,
                "sparse_block_size": 16,
                "sparse_topk_blocks": 4,
                "sparse_local_block": 1,
                "sparse_attention_freq": [0, 1],
            },
        }
    },
    "ministral3": {**_WINDOWED, "rope_parameters": _LLAMA4_SCALING},
    "mistral3": {"text_config": {"model_type": "ministral3", "rope_parameters": _LLAMA4_SCALING}},
    "mistral4": {"rope_parameters": _LLAMA4_SCALING},
    "muse_glimmer": {**_WINDOWED, "layer_rope_theta": [100000.0, 0.0]},
    "nanbeige": {"num_loops": 2},
    "nanochat": {"num_key_value_heads": 4},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "num_hidden_layers": 3,
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"n_heads_in_group": 2}, "ffn": {"no_op": True}},
        ],
    },
    "nemotron_h": {
        "layers_block_type": ["mamba", "mlp", "attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "mamba_proj_bias": False,
        "ssm_state_size": 32,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_conv_bias": True,
        "moe_shared_expert_intermediate_size": 32,
        "time_step_min": 0.001,
        "time_step_max": 0.1,
    },
    "olmo3": _WINDOWED,
    "olmo_hybrid": {
        **_RECURRENT,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_allow_neg_eigval": True,
    },
    "openelm": {
        "num_transformer_layers": 2,
        "model_dim": 64,
        "ffn_dim_divisor": 16,
        "num_query_heads": [4, 4],
        "num_kv_heads": [2, 2],
        "ffn_multipliers": [1.0, 2.0],
    },
    "phi3small": {
        "vocab_size": 100_352,  # it silences tokens by their ids
        "dense_attention_every_n_layers": 2,
        "ff_intermediate_size": 96,
        "gegelu_limit": 20.0,
        "blocksparse_block_size": 64,
        "blocksparse_num_local_blocks": 2,
        "blocksparse_vert_stride": 2,
    },
    "phi3": {
        "max_position_embeddings": 32768,
        "original_max_position_embeddings": 512,
        "partial_rotary_factor": 1.0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    },
    "phimoe": {
        "original_max_position_embeddings": 512,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "short_mscale": 1.2,
            "long_mscale": 1.2,
            "original_max_position_embeddings": 512,
        },
    },
    "phixtral": {"num_vocab": VOCABULARY, "model_dim": 64, "num_heads": 4, "num_layers": 2, "rotary_dim": 8},
    "pixtral": {"text_config": {}},
    "plamo": {"n_shared_head": 2},
    "plamo2": {
        "hidden_size_per_head": 32,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_num_heads": 4,
        "mamba_step": 2,
        "full_attention_idx": [1],
    },
    "plamo3": {"window_size": WINDOW, "sliding_window_pattern": 2},
    "qwen": {"kv_channels": 16},
    "qwen2_vl": {"text_config": {}},
    "qwen3_5": {"text_config": {**_RECURRENT, "full_attention_interval": 2, "num_experts": 0}},
    "qwen3_5_moe": {"text_config": {**_RECURRENT, "full_attention_interval": 2}},
    "qwen3_next": {**_RECURRENT, "full_attention_interval": 2},
    "qwen3_vl": {"text_config": {}},
    "qwen3_vl_moe": {"text_config": {"tie_word_embeddings": False}},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "conv1d_width": 4,
        "num_key_value_heads": 1,
        "logits_soft_cap": 30.0,
        "attention_window_size": WINDOW,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv7": {
        "head_dim": 32,
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "smollm3": {**_WINDOWED, "no_rope_layer_interval": 2},
    "spark2_5": {
        **_WINDOWED,
        "rope_parameters": {kind: {"rope_theta": 10000.0, "rope_type": "default"} for kind in _SLIDING_THEN_FULL},
    },
    "stablelm": {"use_qkv_bias": True},
    "step3p5": {
        **_WINDOWED,
        "num_attention_groups": 2,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 32,
        "moe_layers_enum": "1",
        "rope_theta": 100000.0,
        "partial_rotary_factors": [1.0, 0.5],
    },
}
_WRAPPED = "text_config"

# With the reason.
NOT_RUN = {
    "bitnet": "its kernels are Metal's alone: the CPU refuses it when it is loaded",
    "gear": "transformers refuses its config, so mlx-lm does not load it either",
    "muse_spark": "reads images: tests/unit/worker/test_mlx_vision.py",
    "olmo": "wants a package of its own, without which mlx-lm gives up",
    "phi3small": "mlx-lm's own answers depend on how the prompt was cut into chunks",
    "prism_hadamard_qwen35": "only packs made by its own tool load; its layers are those of qwen3_5",
}
# mlx-lm's own logits change a little with the chunks of the prompt: its mask shows a token more than its cache keeps.
CHUNK_DEPENDENT = frozenset({"plamo3"})
# Their caches are of classes of their own, which cannot be written to files.
MEMORY_ONLY = frozenset({"deepseek_v41"})


def architectures() -> list[str]:
    """The names of mlx-lm's modules that are models."""
    folder = Path(next(iter(mlx_lm.models.__path__)))
    return sorted(path.stem for path in folder.glob("*.py") if "class Model(" in path.read_text(encoding="utf8"))


def tiny_config(architecture: str) -> dict[str, Any]:
    """A config.json for the module `architecture` of `mlx_lm.models`: of the common fields those that it knows."""
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    known = {*inspect.signature(module.ModelArgs).parameters, "max_position_embeddings"}
    config = {key: value for key, value in _COMMON.items() if key in known}
    config |= {"model_type": architecture, **OVERRIDES.get(architecture, {})}
    if _WRAPPED in config:
        config[_WRAPPED] = {**_COMMON, "model_type": f"{architecture}_text", **config[_WRAPPED]}
    return config


def build_architecture(architecture: str, out: Path) -> Path:
    """A random checkpoint of it in the folder `out`, in float32."""
    return write_random_checkpoint(out, tiny_config(architecture), filled=True)
