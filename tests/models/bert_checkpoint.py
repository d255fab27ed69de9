"""Tiny encoders with random weights, as folders that sentence-transformers would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f", "g", "h", "the", "cat", "sat", "on", "mat")
HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 16, 2, 4, 32, 24


def build_bert(
    folder: Path,
    *,
    family: str = "bert",
    pooling: str = "mean",
    labels: int = 0,
    prefix: str = "",
    modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
) -> dict[str, NDArray[np.float32]]:
    """The weights that were written, under their names without the prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "model_type": family,
        "architectures": ["BertForSequenceClassification" if labels else "BertModel"],
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "vocab_size": len(WORDS),
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
    }
    if labels:
        config["id2label"] = {str(label): str(label) for label in range(labels)}
    (folder / "config.json").write_text(json.dumps(config))
    kinds = [{"idx": index, "type": f"sentence_transformers.models.{kind}"} for index, kind in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{name}": name == _POOLING_NAMES[pooling] for name in _POOLING_NAMES.values()})
    )
    _tokenizer().save(str(folder / "tokenizer.json"))
    weights = _weights(family, labels)
    save_file({prefix + name: value for name, value in weights.items()}, folder / "model.safetensors")
    return weights


_POOLING_NAMES = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    tokenizer.enable_padding(length=20)  # as many are saved; it must not count
    return tokenizer


def _weights(family: str, labels: int) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        **_norm("embeddings.LayerNorm"),
    }
    for number in range(LAYERS):
        at = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            shapes |= _linear(f"{at}.attention.self.{name}", HIDDEN, HIDDEN)
        shapes |= _linear(f"{at}.attention.output.dense", HIDDEN, HIDDEN) | _norm(f"{at}.attention.output.LayerNorm")
        shapes |= _linear(f"{at}.intermediate.dense", INNER, HIDDEN)
        shapes |= _linear(f"{at}.output.dense", HIDDEN, INNER) | _norm(f"{at}.output.LayerNorm")
    if labels and family == "bert":
        shapes |= _linear("pooler.dense", HIDDEN, HIDDEN) | _linear("classifier", labels, HIDDEN)
    elif labels:
        shapes |= _linear("classifier.dense", HIDDEN, HIDDEN) | _linear("classifier.out_proj", labels, HIDDEN)
    return {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
