"""A tiny Whisper that says what its position tells it, whatever it hears: tokens, marks of time, language, all as real
ones do. It proves everything but that a real model's words are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

STATES, HEADS, ENCODER_LAYERS, LAYERS, BANDS, POSITIONS, FRAMES = 64, 1, 1, 2, 80, 96, 1500
LANGUAGES: Final = ("en", "de", "ja")
_CONTROL: Final = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{language}|>" for language in LANGUAGES),
    *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
_MARKS: Final = FRAMES + 1
SAYS: Final = (0.0, " hello world", 1.0, 1.0, " and again.", 2.0)  # text, and seconds


def build_whisper(
    folder: Path,
    *,
    says: Sequence[float | str] = SAYS,
    language: str = "de",
    is_multilingual: bool = True,
    layout: str = "mlx-whisper",
) -> Tokenizer:
    """`layout` is whose names the weights and the config have: "mlx-whisper" or "transformers". The tokenizer that was
    written."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = _weights(tokenizer, says, language, opening=3 if is_multilingual else 1)
    sizes = (BANDS, FRAMES, STATES, HEADS, ENCODER_LAYERS, LAYERS, tokenizer.get_vocab_size(), POSITIONS)
    if layout == "transformers":
        weights = {f"model.{_other_name(name)}": _other_value(name, value) for name, value in weights.items()}
    config = dict(zip(_NAMES[layout], sizes, strict=True))
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **config}))
    (folder / "generation_config.json").write_text(json.dumps({"is_multilingual": is_multilingual}))
    name = "model" if layout == "transformers" else "weights"
    save_file({key: np.ascontiguousarray(value) for key, value in weights.items()}, folder / f"{name}.safetensors")
    return tokenizer


_NAMES: Final = {
    "mlx-whisper": (
        *("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_layer", "n_vocab"),
        "n_text_ctx",
    ),
    "transformers": (
        *("num_mel_bins", "max_source_positions", "d_model", "encoder_attention_heads", "encoder_layers"),
        *("decoder_layers", "vocab_size", "max_target_positions"),
    ),
}


_WORDS: Final = (" hello", " world", " and", " again", " -", " '")  # a token each
_SPACE: Final = "Ġ"  # as byte-level tokenizers write it


def _tokenizer() -> Tokenizer:
    """Bytes and some words, what is to be done, and marks of time."""
    words = [word.replace(" ", _SPACE) for word in _WORDS]
    merges = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys(first + last for first, last in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in _CONTROL])
    tokenizer.add_tokens([AddedToken(f"<|{mark * 0.02:.2f}|>") for mark in range(_MARKS)])
    return tokenizer


def _script(tokenizer: Tokenizer, says: Sequence[float | str]) -> list[int]:
    first = tokenizer.token_to_id("<|0.00|>")
    script: list[int] = []
    for part in says:
        script += [first + round(part * 50)] if isinstance(part, float) else tokenizer.encode(part).ids
    return [*script, tokenizer.token_to_id("<|endoftext|>")]


def _weights(
    tokenizer: Tokenizer, says: Sequence[float | str], language: str, *, opening: int
) -> dict[str, NDArray[np.float32]]:
    """What follows is told by the position; where nothing is scripted, the end."""
    chance = np.random.default_rng(0)
    embedding = chance.normal(size=(tokenizer.get_vocab_size(), STATES)) * 0.5
    follows = [tokenizer.token_to_id("<|endoftext|>")] * POSITIONS
    script = _script(tokenizer, says)
    follows[opening - 1 : opening - 1 + len(script)] = script
    if opening > 1:
        follows[0] = tokenizer.token_to_id(f"<|{language}|>")
    weights = {
        "decoder.token_embedding.weight": embedding,
        "decoder.positional_embedding": 10.0 * embedding[follows],
        "encoder.conv1.weight": chance.normal(size=(STATES, 3, BANDS)) * 0.05,
        "encoder.conv2.weight": chance.normal(size=(STATES, 3, STATES)) * 0.05,
        **{f"encoder.conv{number}.bias": np.zeros(STATES) for number in (1, 2)},
        **_norm("encoder.ln_post"),
        **_norm("decoder.ln"),
    }
    for layer in range(ENCODER_LAYERS):
        weights |= _block(f"encoder.blocks.{layer}", chance, ("attn",))
    for layer in range(LAYERS):
        weights |= _block(f"decoder.blocks.{layer}", chance, ("attn", "cross_attn"))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _block(at: str, chance: np.random.Generator, attentions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """What it adds is nothing, so that the position alone tells what follows; where it looks is left to chance."""
    found = {**_norm(f"{at}.mlp_ln")}
    for name in attentions:
        found |= _norm(f"{at}.{name}_ln")
        for part in ("query", "key", "value"):
            found[f"{at}.{name}.{part}.weight"] = chance.normal(size=(STATES, STATES)) * 0.1
        found |= {f"{at}.{name}.{part}.bias": np.zeros(STATES) for part in ("query", "value", "out")}
        found[f"{at}.{name}.out.weight"] = np.zeros((STATES, STATES))
    found |= {f"{at}.mlp1.weight": chance.normal(size=(4 * STATES, STATES)), f"{at}.mlp1.bias": np.zeros(4 * STATES)}
    return found | {f"{at}.mlp2.weight": np.zeros((STATES, 4 * STATES)), f"{at}.mlp2.bias": np.zeros(STATES)}


def _norm(at: str) -> dict[str, NDArray[np.float64]]:
    return {f"{at}.weight": np.ones(STATES), f"{at}.bias": np.zeros(STATES)}


_OTHER: Final = (  # transformers' names, the longer first
    (".blocks.", ".layers."),
    (".cross_attn_ln.", ".encoder_attn_layer_norm."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".cross_attn.", ".encoder_attn."),
    (".attn.", ".self_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    (".out.", ".out_proj."),
    (".mlp1.", ".fc1."),
    (".mlp2.", ".fc2."),
    (".mlp_ln.", ".final_layer_norm."),
    ("encoder.ln_post.", "encoder.layer_norm."),
    ("decoder.ln.", "decoder.layer_norm."),
    (".token_embedding.", ".embed_tokens."),
    ("decoder.positional_embedding", "decoder.embed_positions.weight"),
)


def _other_name(name: str) -> str:
    for ours, theirs in _OTHER:
        name = name.replace(ours, theirs)
    return name


def _other_value(name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    return value.transpose(0, 2, 1) if name.startswith("encoder.conv") and value.ndim > 1 else value
