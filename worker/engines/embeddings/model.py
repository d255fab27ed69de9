"""An embedding model in memory: its tokenizer, what makes hidden states of tokens, and how one vector is made of them.

How states are pooled is what the model's `1_Pooling/config.json` says (sentence-transformers), else what its family is
known for: the mean of an encoder's states, the last state of a language model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import mlx.core as mx
from tokenizers import Encoding, Tokenizer

from shared.errors import ModelUnavailableError
from worker.engines.embeddings.bert import FAMILIES, Bert, BertConfig, own_weights

Pooling = Literal["mean", "first", "last"]
_POOLINGS: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingModel:
    """`states` maps (tokens, types, lengths) to hidden states; `scores` maps those to what a classifier says of pairs,
    None where the model is none."""

    tokenizer: Tokenizer
    states: Callable[[mx.array, mx.array, mx.array], mx.array]
    scores: Callable[[mx.array], mx.array] | None
    pooling: Pooling
    hidden: int
    max_tokens: int

    def vectors(self, inputs: Sequence[Encoding | Sequence[int]]) -> mx.array:
        """(inputs, hidden), each of length 1."""
        tokens, types, lengths = _padded(inputs)
        pooled = _pooled(self.states(tokens, types, lengths).astype(mx.float32), lengths, self.pooling)
        return pooled / mx.maximum(mx.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)

    def relevances(self, pairs: Sequence[Encoding]) -> mx.array:
        """(pairs,), between 0 and 1, of a model that classifies pairs."""
        assert self.scores is not None
        logits = self.scores(self.states(*_padded(pairs))).astype(mx.float32)
        return mx.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else mx.softmax(logits, axis=-1)[:, -1]


def _padded(inputs: Sequence[Encoding | Sequence[int]]) -> tuple[mx.array, mx.array, mx.array]:
    rows = [(one.ids, one.type_ids) if isinstance(one, Encoding) else (list(one), [0] * len(one)) for one in inputs]
    width = max(len(ids) for ids, _ in rows)
    tokens = mx.array([[*ids, *[0] * (width - len(ids))] for ids, _ in rows])
    types = mx.array([[*kinds, *[0] * (width - len(kinds))] for _, kinds in rows])
    return tokens, types, mx.array([len(ids) for ids, _ in rows])


def _pooled(states: mx.array, lengths: mx.array, pooling: Pooling) -> mx.array:
    match pooling:
        case "first":
            return states[:, 0]
        case "last":
            return states[mx.arange(states.shape[0]), lengths - 1]
        case "mean":
            is_text = (mx.arange(states.shape[1])[None] < lengths[:, None])[..., None]
            return mx.where(is_text, states, 0).sum(axis=1) / lengths[:, None]


def load_embedding_model(folder: Path) -> EmbeddingModel:
    """Raises `ModelUnavailableError` with the reason."""
    try:
        config = _json(folder / "config.json")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        _check_modules(folder)
        load = _load_encoder if config.get("model_type") in FAMILIES else _load_decoder
        return load(folder, config, tokenizer)
    except ModelUnavailableError:
        raise
    except Exception as error:  # a folder may hold anything, and its tokenizer's reader raises plain exceptions
        raise ModelUnavailableError(f"it is no embedding model that can be read: {error!r}") from error


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _check_modules(folder: Path) -> None:
    """Layers behind the pooling would change every vector."""
    path = folder / "modules.json"
    kinds = [str(module.get("type")).rpartition(".")[2] for module in _json(path)] if path.is_file() else []
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise ModelUnavailableError(f"its modules {', '.join(unknown)} are not known here")


def _pooling_of(folder: Path, usual: Pooling) -> Pooling:
    path = folder / "1_Pooling" / "config.json"
    said = _json(path) if path.is_file() else {}
    return next((pooling for name, pooling in _POOLINGS.items() if said.get(name)), usual)


def _max_tokens(folder: Path, most: int) -> int:
    path = folder / "sentence_bert_config.json"
    said = _json(path).get("max_seq_length") if path.is_file() else None
    return min(most, said) if isinstance(said, int) and said > 0 else most


def _load_encoder(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> EmbeddingModel:
    shape = BertConfig.of(config)
    model = Bert(shape, is_roberta=config["model_type"] != "bert")
    weights: dict[str, mx.array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        read = mx.load(str(path))
        assert isinstance(read, dict)
        weights |= read
    model.load_weights(own_weights(weights, model))
    mx.eval(model.parameters())
    return EmbeddingModel(
        tokenizer=tokenizer,
        states=model,
        scores=model.scores if shape.labels else None,
        pooling=_pooling_of(folder, "mean"),
        hidden=shape.hidden,
        max_tokens=_max_tokens(folder, shape.max_tokens),
    )


def _load_decoder(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> EmbeddingModel:
    """A language model of mlx-lm's: its states below the head. Padding stands behind the text, where no state before it
    sees it."""
    from mlx_lm.utils import load_model

    model, _ = load_model(folder, lazy=False)
    return EmbeddingModel(
        tokenizer=tokenizer,
        states=lambda tokens, types, lengths: model.model(tokens),
        scores=None,
        pooling=_pooling_of(folder, "last"),
        hidden=int(config["hidden_size"]),
        max_tokens=_max_tokens(folder, int(config["max_position_embeddings"])),
    )
