"""Random-weight checkpoints of any architecture mlx-lm knows, in seconds, loadable like any other.

    python -m tests.models.random_checkpoint full OUT --params 1.4e6
    python -m tests.models.random_checkpoint --list

Made from nothing but the Python standard library's sources: a byte-level BPE trained on them, a ChatML template with
tools and reasoning, and seeded weights. The text such a model writes is noise, but the same noise every time, and it
never ends by itself unless asked to (the end token's embedding is zero), so it suits speed, cache and equality tests.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = 2048
END = "<|im_end|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", END, "<tool_call>", "</tool_call>", "<think>", "</think>")
IMAGE_PATCH = "<|patch|>"
IMAGE_SPECIAL = ("<|image_start|>", IMAGE_PATCH, "<|image_end|>")
# A word keeps the space behind it, so that text made of words splits again where its tokens did.
PATTERN = r"\p{L}+ ?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
_TRAINING_BYTES = 1_500_000

TEMPLATE = r"""
{%- macro text(c) -%}{%- if c is string -%}{{ c }}{%- elif c -%}{%- for p in c -%}
{{ '<|patch|>' if p.type in ('image', 'image_url') else p.text or '' }}{%- endfor -%}{%- endif -%}{%- endmacro -%}
{%- if tools -%}
{{ '<|im_start|>system\nCall a tool by writing its name and arguments as JSON in <tool_call></tool_call>.\n<tools>\n' }}
{%- for tool in tools -%}{{ tool | tojson }}{{ '\n' }}{%- endfor -%}{{ '</tools><|im_end|>\n' }}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{{ '<|im_start|>user\n<tool_response>\n' ~ text(m.content) ~ '\n</tool_response><|im_end|>\n' }}
{%- else -%}
{{ '<|im_start|>' ~ m.role ~ '\n' }}
{%- if m.reasoning_content -%}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' }}{%- endif -%}
{{ text(m.content) }}
{%- for tool_call in m.tool_calls or [] -%}{%- set tool_call = tool_call.function or tool_call -%}
{{ '\n' if text(m.content) or not loop.first }}{{ '<tool_call>\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
{{- (tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson) ~ '}\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- if thinking -%}{{ '<think>\n' }}{%- endif -%}
{%- endif -%}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A family of configs by width. `about` says what its layers keep between tokens."""

    about: str
    config: Callable[[int], dict[str, Any]]


def _common(width: int, layers: int, **more: Any) -> dict[str, Any]:
    heads = 2 * max(1, width // 128)  # few and narrow: attention over 20,000 tokens must stay cheap on a CPU
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 16,
        "intermediate_size": 4 * width,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 100000.0,
        "max_position_embeddings": 65536,
        "tie_word_embeddings": True,
        **more,
    }


def _qwen3(width: int) -> dict[str, Any]:
    return _common(width, 2, model_type="qwen3")


def _llama(width: int) -> dict[str, Any]:
    return _common(width, 2, model_type="llama")


def _spark(width: int) -> dict[str, Any]:
    rope = {"sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}
    kinds = ["sliding_attention"] * 2
    return _common(width, 2, model_type="spark2_5", sliding_window=256, layer_types=kinds, rope_parameters=rope)


def _gemma3(width: int) -> dict[str, Any]:
    return _common(
        width,
        2,
        model_type="gemma3_text",
        sliding_window=256,
        sliding_window_pattern=2,
        query_pre_attn_scalar=16,
        rope_local_base_freq=10000.0,
    )


def _gpt_oss(width: int) -> dict[str, Any]:
    return _common(
        width,
        2,
        model_type="gpt_oss",
        intermediate_size=width,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention"],
    )


def _lfm2(width: int) -> dict[str, Any]:
    return _common(
        width,
        3,
        model_type="lfm2",
        norm_eps=1e-6,
        conv_bias=False,
        conv_L_cache=3,
        block_dim=width,
        block_ff_dim=4 * width,
        block_multiple_of=1,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=False,
        layer_types=["conv", "full_attention", "conv"],
    )


def _qwen3_next(width: int) -> dict[str, Any]:
    return _common(
        width,
        2,
        model_type="qwen3_next",
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        linear_conv_kernel_dim=4,
        num_experts=0,
        num_experts_per_tok=1,
        decoder_sparse_step=1,
        shared_expert_intermediate_size=width,
        mlp_only_layers=[],
        moe_intermediate_size=width,
        partial_rotary_factor=0.5,
        full_attention_interval=2,
    )


def _mamba2(width: int) -> dict[str, Any]:
    config = _common(
        width,
        4,
        model_type="mamba2",
        num_heads=2 * width // 32,
        state_size=32,
        layer_norm_epsilon=1e-6,
        conv_kernel=4,
        n_groups=1,
        use_bias=False,
        use_conv_bias=True,
        time_step_limit=[0.0, 10.0],
        time_step_rank="auto",
    )
    return config | {"head_dim": 32, "intermediate_size": 2 * width}


def _falcon_h1(width: int) -> dict[str, Any]:
    return _common(
        width,
        2,
        model_type="falcon_h1",
        mamba_d_ssm=width,
        mamba_d_head=32,
        mamba_n_heads=width // 32,
        mamba_d_state=32,
        mamba_n_groups=1,
        mamba_d_conv=4,
    )


def _muse_spark(width: int) -> dict[str, Any]:
    heads = 2 * max(1, width // 128)
    text = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "post_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 100000.0},
        "layer_rope_theta": [100000.0, 0.0],
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 128,
        "final_logit_softcapping": 30.0,
        "output_multiplier": 1.0,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_hidden_size": width,
        "moe_intermediate_size": width,
        "max_position_embeddings": 65536,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pos_emb_height": 8,
        "pos_emb_width": 8,
    }
    return {
        "model_type": "muse_spark",
        "text_config": text,
        "vision_config": vision,
        "image_token_id": len(SPECIAL) + IMAGE_SPECIAL.index(IMAGE_PATCH),
        "audio_config": {"out_hidden_size": width},  # which transformers demands
        "projector_hidden_size": width,
        "max_position_embeddings": 65536,
    }


PRESETS = {
    "full": Preset(about="full attention (Qwen3): one trimmable cache per layer", config=_qwen3),
    "llama": Preset(about="full attention (Llama)", config=_llama),
    "window": Preset(about="sliding window of 256 in every layer (Spark 2.5): rotating caches only", config=_spark),
    "gemma3": Preset(about="sliding window of 256 and full attention in turn (Gemma 3)", config=_gemma3),
    "gpt-oss": Preset(about="sliding window of 128 and full in turn, sinks, experts (gpt-oss)", config=_gpt_oss),
    "hybrid": Preset(about="short convolutions and full attention (LFM2)", config=_lfm2),
    "qwen3-next": Preset(about="gated delta net and full attention in turn (Qwen3-Next)", config=_qwen3_next),
    "mamba2": Preset(about="recurrent state only (Mamba 2)", config=_mamba2),
    "falcon-h1": Preset(
        about="attention and recurrent state side by side in each layer (Falcon H1)", config=_falcon_h1
    ),
    "vision": Preset(
        about="reads images; sliding window of 128 and full in turn, experts (Muse Spark)", config=_muse_spark
    ),
}


def build_checkpoint(
    preset: str, out: Path, *, params: float = 1.4e6, seed: int = 0, dtype: str = "float32", wordy: bool = True
) -> Path:
    """Write a checkpoint of about `params` parameters to the folder `out` and return `out`.

    `wordy` makes the model say whole words only and never end; without it any token may come, the end token too.
    """
    return write_random_checkpoint(out, _sized(PRESETS[preset].config, params), seed=seed, dtype=dtype, wordy=wordy)


def write_random_checkpoint(
    out: Path,
    config: dict[str, Any],
    *,
    seed: int = 0,
    dtype: str = "float32",
    wordy: bool = True,
    filled: bool = False,
) -> Path:
    """The folder `out` with seeded weights for this config. `filled` gives numbers to what begins as zeros, too: what
    a model does not use yet cannot come out wrong."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    mx.random.seed(seed)
    model = build_model(config)
    weights = {name: _spread(name, value) for name, value in tree_flatten(model.parameters())}
    if filled:
        weights = {
            name: value if value.any() else 0.2 * mx.random.normal(value.shape) for name, value in weights.items()
        }
    tokenizer = tokenizer_json(IMAGE_SPECIAL if "vision_config" in config else ())
    if wordy:
        _say_words_only(weights, tokenizer)
    return write_checkpoint(
        out, config, {name: value.astype(getattr(mx, dtype)) for name, value in weights.items()}, tokenizer, dtype=dtype
    )


def write_checkpoint(
    out: Path, config: dict[str, Any], weights: dict[str, Any], tokenizer: str, *, dtype: str = "float32"
) -> Path:
    """The folder `out` with these weights, the tokenizer and the chat template, as mlx-lm reads it."""
    import mlx.core as mx

    out.mkdir(parents=True, exist_ok=True)
    end_id = SPECIAL.index(END)
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    config |= {"eos_token_id": end_id, "pad_token_id": 0, "torch_dtype": dtype}
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", {"eos_token_id": end_id})
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": SPECIAL[0],
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    if config["model_type"] == "muse_spark":
        # The forms of answers and calls that mlx-lm assumes for it are not those of the template below.
        tokenizer_config |= {"chat_template_type": None, "tool_parser_type": None}
    _write_json(out / "tokenizer_config.json", tokenizer_config)
    (out / "tokenizer.json").write_text(tokenizer, encoding="utf8")
    (out / "chat_template.jinja").write_text(TEMPLATE.lstrip("\n"), encoding="utf8")
    return out


def count_parameters(config: dict[str, Any]) -> int:
    """Parameters of the model that mlx-lm builds from `config`; nothing is allocated."""
    from mlx.utils import tree_flatten

    return sum(math.prod(value.shape) for _, value in tree_flatten(build_model(config).parameters()))


def _sized(config: Callable[[int], dict[str, Any]], params: float) -> dict[str, Any]:
    """The config whose width, in steps of 32, comes nearest to the wanted number of parameters."""
    width, nearest = 32, config(32)
    error = abs(count_parameters(nearest) - params)
    while True:
        width += 32
        candidate = config(width)
        candidate_error = abs(count_parameters(candidate) - params)
        if candidate_error >= error:
            return nearest
        nearest, error = candidate, candidate_error


def build_model(config: dict[str, Any]) -> Any:
    """mlx-lm's model of this config, with weights of chance that are not there before they are used."""
    from mlx_lm.utils import _get_classes

    model_class, arguments_class = _get_classes(config)
    return model_class(arguments_class.from_dict(config))


def _spread(name: str, value: Any) -> Any:
    """Wider projections, sharper attention, slower forgetting: what is said depends on what was read, however early."""
    if name.endswith("A_log"):
        return value - 4.0
    if "q_norm" in name or "q_layernorm" in name or (value.ndim == 2 and "embed" not in name):
        return value * 3.0
    return value


def _say_words_only(weights: dict[str, Any], tokenizer: str) -> None:
    """Shrink the embedding of every token but whole words, so that greedily only words are said.

    Layers normalise what they read, so a shrunk token is still read as before.
    """
    import mlx.core as mx

    vocabulary = json.loads(tokenizer)["model"]["vocab"]
    scale = [0.02] * VOCABULARY
    for token, index in vocabulary.items():
        if re.fullmatch(r"[a-z]+\u0120", token):  # the byte-level alphabet writes a space as U+0120
            scale[index] = 1.0
    for name, value in weights.items():
        if value.ndim == 2 and value.shape[0] == VOCABULARY:
            weights[name] = value * mx.array(scale)[:, None]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf8")


@functools.cache
def tokenizer_json(more_special: tuple[str, ...] = ()) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL, *more_special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(standard_library_text(_TRAINING_BYTES).splitlines(keepends=True), trainer)
    specification = json.loads(tokenizer.to_str())
    for added in specification["added_tokens"]:
        added["special"] = added["content"].startswith("<|")
    return json.dumps(specification)


@functools.cache
def standard_library_text(characters: int) -> str:
    """The first `characters` of the standard library's top-level sources, in the order of their names."""
    pieces, total = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        pieces.append(path.read_text(encoding="utf8"))
        total += len(pieces[-1])
        if total >= characters:
            break
    return "".join(pieces)[:characters]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("preset", nargs="?", choices=sorted(PRESETS))
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--params", type=float, default=1.4e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--any-token", action="store_true", help="say any token, the end token too, not words only")
    parser.add_argument("--list", action="store_true", help="list the presets")
    arguments = parser.parse_args()
    if arguments.list:
        for name, preset in PRESETS.items():
            print(f"{name:12} {preset.about}")
        return
    if arguments.preset is None or arguments.out is None:
        parser.error("give a preset and a folder, or --list")
    build_checkpoint(
        arguments.preset,
        arguments.out,
        params=arguments.params,
        seed=arguments.seed,
        dtype=arguments.dtype,
        wordy=not arguments.any_token,
    )
    config = json.loads((arguments.out / "config.json").read_text(encoding="utf8"))
    print(f"{arguments.out}: {config['model_type']}, {count_parameters(config) / 1e6:.2f}M parameters")


if __name__ == "__main__":
    main()
