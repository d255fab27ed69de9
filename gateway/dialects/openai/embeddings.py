"""The vendor's Embeddings API, and reranking as its neighbours have it.

Sources: https://platform.openai.com/docs/api-reference/embeddings, as the official SDKs' types spell it out; reranking
has the fields that Cohere, Jina and vLLM share.
"""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.dialects import fields

_MOST_INPUTS: Final = 2048
_MOST_DOCUMENTS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedVectors:
    """Texts or rows of token ids, never both. `dimensions` None: all."""

    model: str
    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    dimensions: int | None = None
    is_base64: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRanking:
    model: str
    query: str
    documents: tuple[str, ...]
    top: int
    with_documents: bool


def parse_vectors(body: Mapping[str, Any]) -> AskedVectors:
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        fields.refuse("Input should be 'float' or 'base64'", "encoding_format")
    with fields.within("input"):
        texts, tokens = _parse_input(body.get("input"))
    return AskedVectors(
        model=fields.name(body.get("model"), "model"),
        texts=texts,
        tokens=tokens,
        dimensions=fields.integer(body.get("dimensions"), "dimensions", low=1),
        is_base64=encoding == "base64",
    )


def _parse_input(value: Any) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    if isinstance(value, str):
        return (fields.name(value),), ()
    items = fields.sequence(value)
    if items and isinstance(items[0], int):
        return (), (_tokens(items),)
    if not 0 < len(items) <= _MOST_INPUTS:
        fields.refuse(f"List should have 1 to {_MOST_INPUTS} items")
    if isinstance(items[0], list):
        return (), tuple(fields.each(items, _tokens))
    return tuple(fields.each(items, fields.name)), ()


def _tokens(value: Any) -> tuple[int, ...]:
    ids = fields.each(fields.sequence(value), _token)
    if not ids:
        fields.refuse("List should have at least 1 item")
    return tuple(ids)


def _token(value: Any) -> int:
    token = fields.integer(value, low=0)
    if token is None or token >= 1 << 31:
        fields.refuse("Input should be the id of a token")
    return token


def parse_ranking(body: Mapping[str, Any]) -> AskedRanking:
    with fields.within("documents"):
        documents = fields.each(fields.sequence(body.get("documents")), _document)
        if not 0 < len(documents) <= _MOST_DOCUMENTS:
            fields.refuse(f"List should have 1 to {_MOST_DOCUMENTS} items")
    top = fields.integer(body.get("top_n"), "top_n", low=1)
    return AskedRanking(
        model=fields.name(body.get("model"), "model"),
        query=fields.name(body.get("query"), "query"),
        documents=tuple(documents),
        top=len(documents) if top is None else top,
        with_documents=fields.boolean(body.get("return_documents"), "return_documents"),
    )


def _document(value: Any) -> str:
    return fields.name(value.get("text"), "text") if isinstance(value, dict) else fields.name(value)


def render_vectors(asked: AskedVectors, vectors: Sequence[bytes], input_tokens: int) -> dict[str, Any]:
    """`vectors` are rows of little-endian 32-bit floats. Raises `FieldError` for more dimensions than there are."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(asked, vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": asked.model,
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }


def _encoded(asked: AskedVectors, vector: bytes) -> list[float] | str:
    if asked.dimensions is not None:
        vector = _shortened(vector, asked.dimensions)
    return base64.b64encode(vector).decode() if asked.is_base64 else floats(vector).tolist()


def floats(vector: bytes) -> array[float]:
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _shortened(vector: bytes, dimensions: int) -> bytes:
    """The first so many, of length 1 again, as models that are trained for it mean them (Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147)."""
    values = floats(vector)
    if dimensions > len(values):
        fields.refuse(f"this model has {len(values)} dimensions", "dimensions")
    first = values[:dimensions]
    length = math.sqrt(math.fsum(value * value for value in first)) or 1.0
    short = array("f", [value / length for value in first])
    if sys.byteorder == "big":
        short.byteswap()
    return short.tobytes()


def render_ranking(
    asked: AskedRanking, scores: Sequence[bytes], input_tokens: int, *, request_id: str
) -> dict[str, Any]:
    """The most relevant first."""
    known = [floats(score)[0] for score in scores]
    order = sorted(range(len(known)), key=lambda index: -known[index])[: asked.top]
    return {
        "id": f"rerank-{request_id}",
        "model": asked.model,
        "results": [
            {"index": index, "relevance_score": known[index]}
            | ({"document": {"text": asked.documents[index]}} if asked.with_documents else {})
            for index in order
        ],
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }
