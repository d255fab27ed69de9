"""The tiny encoders of `bert_checkpoint` as GGUF files in 32-bit floats, so that llama.cpp runs the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.models.bert_checkpoint import HEADS, HIDDEN, INNER, LAYERS, POSITIONS, WORDS, build_bert
from tests.models.gguf_checkpoint import write_gguf

POOLINGS = {"mean": 1, "first": 2, "last": 3}
_NORMAL, _CONTROL = 1, 3
_WHOLE = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def build_bert_gguf(folder: Path, out: Path, *, pooling: str = "mean") -> Path:
    """The same model twice: a folder for the embeddings engine, and the file."""
    weights = build_bert(folder, pooling=pooling)
    values: dict[str, Any] = {
        "general.architecture": "bert",
        "bert.context_length": POSITIONS,
        "bert.embedding_length": HIDDEN,
        "bert.block_count": LAYERS,
        "bert.feed_forward_length": INNER,
        "bert.attention.head_count": HEADS,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": POOLINGS[pooling],
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [word if word.startswith("[") else f"\u2581{word}" for word in WORDS],
        "tokenizer.ggml.token_type": [_CONTROL if word.startswith("[") else _NORMAL for word in WORDS],
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": WORDS.index("[PAD]"),
        "tokenizer.ggml.unknown_token_id": WORDS.index("[UNK]"),
        "tokenizer.ggml.bos_token_id": WORDS.index("[CLS]"),
        "tokenizer.ggml.cls_token_id": WORDS.index("[CLS]"),
        "tokenizer.ggml.seperator_token_id": WORDS.index("[SEP]"),  # (as the format spells it)
        "tokenizer.ggml.eos_token_id": WORDS.index("[SEP]"),
    }
    write_gguf(out, values, {_name(name): _array(array) for name, array in weights.items()})
    return out


def _name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest]}.{kind}"


def _array(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array)
