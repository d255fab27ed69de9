"""What is asked of embeddings and rankings, and how the package reads the answers."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse

from gateway.dialects.fields import FieldError
from gateway.dialects.openai.embeddings import (
    AskedVectors,
    floats,
    parse_ranking,
    parse_vectors,
    render_ranking,
    render_vectors,
)


def row(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize(
    ("value", "texts", "tokens"),
    [
        ("a", ("a",), ()),
        (["a", "b"], ("a", "b"), ()),
        ([1, 2], (), ((1, 2),)),
        ([[1, 2], [3]], (), ((1, 2), (3,))),
    ],
)
def test_inputs_are_texts_or_ids(value: Any, texts: tuple[str, ...], tokens: tuple[tuple[int, ...], ...]) -> None:
    asked = parse_vectors({"model": "m", "input": value})
    assert (asked.texts, asked.tokens, asked.dimensions, asked.is_base64) == (texts, tokens, None, False)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"input": ""}, ("input",)),
        ({"input": None}, ("input",)),
        ({"input": []}, ("input",)),
        ({"input": ["a"] * 2049}, ("input",)),
        ({"input": ["a", [1]]}, ("input", 1)),
        ({"input": [[1], []]}, ("input", 1)),
        ({"input": [1, -1]}, ("input", 1)),
        ({"input": "a", "dimensions": 0}, ("dimensions",)),
        ({"input": "a", "encoding_format": "hex"}, ("encoding_format",)),
        ({"input": "a", "model": None}, ("model",)),
    ],
)
def test_what_cannot_be_embedded_is_refused_with_its_place(body: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(FieldError) as caught:
        parse_vectors({"model": "m"} | body)
    assert caught.value.path == path


def test_vectors_are_read_by_the_package_in_both_encodings() -> None:
    vectors = [row(0.6, 0.8), row(1.0, 0.0)]
    plain = CreateEmbeddingResponse.model_validate(render_vectors(AskedVectors(model="m"), vectors, 7))
    assert [list(one.embedding) for one in plain.data] == [list(floats(vector)) for vector in vectors]
    assert plain.usage.prompt_tokens == 7
    encoded = render_vectors(AskedVectors(model="m", is_base64=True), vectors, 7)
    assert [base64.b64decode(one["embedding"]) for one in encoded["data"]] == vectors


def test_fewer_dimensions_are_the_first_ones_of_length_one_again() -> None:
    asked = AskedVectors(model="m", dimensions=2)
    (one,) = render_vectors(asked, [row(0.3, 0.4, 0.866)], 1)["data"]
    assert one["embedding"] == pytest.approx([0.6, 0.8])
    with pytest.raises(FieldError, match="has 1 dimensions"):
        render_vectors(asked, [row(1.0)], 1)


def test_documents_are_ranked_and_the_best_are_given() -> None:
    body = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2, "return_documents": True}
    asked = parse_ranking(body)
    answer = render_ranking(asked, [row(0.25), row(0.75), row(0.5)], 9, request_id="r1")
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.75, "document": {"text": "b"}},
        {"index": 2, "relevance_score": 0.5, "document": {"text": "c"}},
    ]
    assert answer["usage"]["total_tokens"] == 9
    short = parse_ranking(body | {"return_documents": False})
    assert "document" not in render_ranking(short, [row(1.0)] * 3, 1, request_id="r")["results"][0]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"documents": []}, ("documents",)),
        ({"documents": ["a", 5]}, ("documents", 1)),
        ({"documents": [{}]}, ("documents", 0, "text")),
        ({"query": ""}, ("query",)),
        ({"top_n": 0}, ("top_n",)),
        ({"model": ""}, ("model",)),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_its_place(body: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(FieldError) as caught:
        parse_ranking({"model": "m", "query": "q", "documents": ["a"]} | body)
    assert caught.value.path == path
