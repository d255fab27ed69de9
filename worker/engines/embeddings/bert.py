"""BERT and its kin (RoBERTa, XLM-RoBERTa) as MLX modules, under the names that their weights have.

Sources: Devlin et al. 2018 (https://arxiv.org/abs/1810.04805); Liu et al. 2019 (https://arxiv.org/abs/1907.11692),
whose positions begin behind the padding's id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn

FAMILIES: Final = ("bert", "roberta", "xlm-roberta")
_PREFIXES: Final = ("bert.", "roberta.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """`first_position` is the number of the first token's place; `max_tokens` bounds an input. `labels` is the width of
    the classifier's answer, 0 where there is none."""

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float
    first_position: int
    labels: int = 0

    @property
    def max_tokens(self) -> int:
        return self.positions - self.first_position

    @classmethod
    def of(cls, config: dict[str, Any]) -> BertConfig:
        """From a model's `config.json`. Raises `KeyError` and `TypeError` for one that lacks something."""
        is_roberta = config["model_type"] != "bert"
        is_classifier = any("SequenceClassification" in name for name in config.get("architectures") or ())
        return cls(
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            inner=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
            token_types=int(config.get("type_vocab_size", 2)),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            first_position=int(config.get("pad_token_id", 1)) + 1 if is_roberta else 0,
            labels=len(config.get("id2label") or {0: ""}) if is_classifier else 0,
        )


class _Embeddings(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(config.token_types, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.epsilon)
        self._first = config.first_position

    def __call__(self, tokens: mx.array, types: mx.array) -> mx.array:
        places = mx.arange(self._first, self._first + tokens.shape[1])[None]
        return self.LayerNorm(
            self.word_embeddings(tokens) + self.position_embeddings(places) + self.token_type_embeddings(types)
        )


class _SelfAttention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key = nn.Linear(config.hidden, config.hidden)
        self.value = nn.Linear(config.hidden, config.hidden)
        self._heads = config.heads

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        batch, length, hidden = x.shape
        size = hidden // self._heads
        query, key, value = (
            part(x).reshape(batch, length, self._heads, size).transpose(0, 2, 1, 3)
            for part in (self.query, self.key, self.value)
        )
        seen = mx.fast.scaled_dot_product_attention(query, key, value, scale=size**-0.5, mask=mask)
        return seen.transpose(0, 2, 1, 3).reshape(batch, length, hidden)


class _Joined(nn.Module):
    """A projection, added to what it was made of."""

    def __init__(self, width: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.epsilon)

    def __call__(self, x: mx.array, before: mx.array) -> mx.array:
        return self.LayerNorm(self.dense(x) + before)


class _Attention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Joined(config.hidden, config)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        return self.output(self.self(x, mask), x)


class _Intermediate(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.inner)

    def __call__(self, x: mx.array) -> mx.array:
        return nn.gelu(self.dense(x))


class _Layer(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Joined(config.inner, config)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        seen = self.attention(x, mask)
        return self.output(self.intermediate(seen), seen)


class _Layers(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = [_Layer(config) for _ in range(config.layers)]


class _Pooler(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(self.dense(x))


class _RobertaHead(nn.Module):
    """RoBERTa's classifier has the pooler's layer in it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)
        self.out_proj = nn.Linear(config.hidden, config.labels)

    def __call__(self, x: mx.array) -> mx.array:
        return self.out_proj(mx.tanh(self.dense(x)))


class Bert(nn.Module):
    """Hidden states of texts, and where the model classifies, its scores."""

    def __init__(self, config: BertConfig, *, is_roberta: bool) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Layers(config)
        if config.labels and is_roberta:
            self.classifier = _RobertaHead(config)
        elif config.labels:
            self.pooler = _Pooler(config)
            self.classifier = nn.Linear(config.hidden, config.labels)

    def __call__(self, tokens: mx.array, types: mx.array, lengths: mx.array) -> mx.array:
        """Arrays of shape (texts, tokens), the lengths of shape (texts,) -> (texts, tokens, hidden)."""
        is_text = mx.arange(tokens.shape[1])[None] < lengths[:, None]
        x = self.embeddings(tokens, types)
        for layer in self.encoder.layer:
            x = layer(x, is_text[:, None, None, :])
        return x

    def scores(self, states: mx.array) -> mx.array:
        """(texts, tokens, hidden) -> (texts, labels): of the first token's state."""
        first = states[:, 0]
        return self.classifier(self.pooler(first) if "pooler" in self else first)


def own_weights(weights: dict[str, mx.array], model: Bert) -> list[tuple[str, mx.array]]:
    """Those that the model has a place for, under their names here. Raises `KeyError` for one that is missing."""
    renamed: dict[str, mx.array] = {}
    for name, value in weights.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        renamed[name.removeprefix(prefix)] = value
    wanted = [name for name, _ in nn.utils.tree_flatten(model.parameters())]
    return [(name, renamed[name]) for name in wanted]
