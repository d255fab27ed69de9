"""The engine of embedding models: what its vectors are, told by a second implementation in NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.config import Settings
from shared.errors import InvalidRequestError, ModelUnavailableError, PromptTooLongError, UnsupportedWorkError
from shared.events import Embedded, Usage
from shared.registry import ModelSpec
from shared.request import GenerateRequest
from shared.work import KINDS, Embed, pack_ids
from tests.models.bert_checkpoint import HEADS, HIDDEN, LAYERS, POSITIONS, WORDS, build_bert
from tests.support.models import AGENT_FULL
from worker.engines.embeddings.engine import EmbeddingsEngine
from worker.engines.registry import build_engine
from worker.serving.embedding import embed

REQUEST = GenerateRequest(id="r", model="m", messages=())
TEXTS = ("a", "the cat sat on the mat", "b c d e f g h a b c", "cat")
Weights = dict[str, NDArray[np.float32]]
Array = NDArray[np.float64]


@contextmanager
def loaded(folder: Path) -> Iterator[EmbeddingsEngine]:
    spec = ModelSpec(id="m", source=str(folder), engine="embeddings")
    engine = build_engine(spec, Settings(state_dir=Path("state")))
    assert isinstance(engine, EmbeddingsEngine)
    try:
        yield engine
    finally:
        assert engine.unload(5.0)
        assert engine.unload(0.0)


def rows(made: Embedded) -> Array:
    return np.array([np.frombuffer(row, dtype="<f4") for row in made.vectors], dtype=np.float64)


# --- the second implementation --------------------------------------------------------------------------------------


def norm(x: Array, weights: Weights, at: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * weights[f"{at}.weight"] + weights[f"{at}.bias"]


def linear(x: Array, weights: Weights, at: str) -> Array:
    return x @ weights[f"{at}.weight"].T + weights[f"{at}.bias"]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def states_of(ids: Sequence[int], types: Sequence[int], weights: Weights, *, first: int) -> Array:
    """Of one text, without any padding."""
    x = weights["embeddings.word_embeddings.weight"][list(ids)].astype(np.float64)
    x = x + weights["embeddings.position_embeddings.weight"][first : first + len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][list(types)], weights, "embeddings.LayerNorm")
    size = HIDDEN // HEADS
    for number in range(LAYERS):
        at = f"encoder.layer.{number}"
        parts = [linear(x, weights, f"{at}.attention.self.{name}") for name in ("query", "key", "value")]
        query, key, value = (part.reshape(len(ids), HEADS, size).transpose(1, 0, 2) for part in parts)
        seen = softmax(query @ key.transpose(0, 2, 1) / math.sqrt(size)) @ value
        joined = linear(seen.transpose(1, 0, 2).reshape(len(ids), HIDDEN), weights, f"{at}.attention.output.dense")
        x = norm(x + joined, weights, f"{at}.attention.output.LayerNorm")
        inner = linear(gelu(linear(x, weights, f"{at}.intermediate.dense")), weights, f"{at}.output.dense")
        x = norm(x + inner, weights, f"{at}.output.LayerNorm")
    return x


def ids_of(text: str) -> list[int]:
    return [WORDS.index("[CLS]"), *map(WORDS.index, text.split()), WORDS.index("[SEP]")]


def expected(text: str, weights: Weights, pooling: str, *, first: int) -> Array:
    ids = ids_of(text)
    states = states_of(ids, [0] * len(ids), weights, first=first)
    pooled = {"mean": states.mean(0), "first": states[0], "last": states[-1]}[pooling]
    return np.asarray(pooled / np.linalg.norm(pooled))


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "pooling", "prefix", "first"),
    [
        ("bert", "mean", "", 0),
        ("bert", "first", "bert.", 0),
        ("xlm-roberta", "first", "roberta.", 2),
        ("roberta", "last", "", 2),
    ],
)
def test_vectors_are_those_of_the_families_own_formula(
    tmp_path: Path, family: str, pooling: str, prefix: str, first: int
) -> None:
    weights = build_bert(tmp_path, family=family, pooling=pooling, prefix=prefix)
    with loaded(tmp_path) as engine:
        info = engine.load(lambda done: None)
        assert info.kinds == (KINDS[Embed].name,)
        assert info.context_tokens == POSITIONS - first
        made = engine.embed(Embed(request=REQUEST, texts=TEXTS))
    wanted = np.array([expected(text, weights, pooling, first=first) for text in TEXTS])
    assert np.abs(rows(made) - wanted).max() < 1e-5
    assert made.input_tokens == sum(len(ids_of(text)) for text in TEXTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bert")
    build_bert(made)
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[EmbeddingsEngine]:
    with loaded(folder) as engine:
        engine.load(lambda done: None)
        yield engine


def test_ids_of_tokens_are_taken_as_they_are(engine: EmbeddingsEngine) -> None:
    by_text = engine.embed(Embed(request=REQUEST, texts=TEXTS))
    by_ids = engine.embed(Embed(request=REQUEST, rows=tuple(pack_ids(ids_of(text)) for text in TEXTS)))
    assert np.abs(rows(by_text) - rows(by_ids)).max() < 1e-5


def test_what_is_computed_together_does_not_matter(engine: EmbeddingsEngine) -> None:
    together = rows(engine.embed(Embed(request=REQUEST, texts=TEXTS * 30)))
    alone = rows(engine.embed(Embed(request=REQUEST, texts=TEXTS[1:2])))
    assert np.abs(together[1::4] - alone).max() < 1e-5


def test_many_threads_may_ask_at_once(engine: EmbeddingsEngine) -> None:
    whole = engine.embed(Embed(request=REQUEST, texts=TEXTS))
    with ThreadPoolExecutor(4) as pool:
        works = [Embed(request=REQUEST, texts=TEXTS)] * 12
        assert all(np.abs(rows(made) - rows(whole)).max() < 1e-5 for made in pool.map(engine.embed, works))


def test_texts_are_ranked_by_how_near_they_are_to_the_query(engine: EmbeddingsEngine) -> None:
    scores = rows(engine.embed(Embed(request=REQUEST, texts=("the cat", "b c"), query="the cat")))[:, 0]
    assert scores[0] == pytest.approx(1.0, abs=1e-5)
    assert 0.0 <= scores[1] < scores[0]


@pytest.mark.parametrize(("family", "labels"), [("bert", 1), ("xlm-roberta", 1), ("bert", 2)])
def test_a_model_that_classifies_pairs_says_how_relevant_they_are(tmp_path: Path, family: str, labels: int) -> None:
    weights = build_bert(tmp_path, family=family, labels=labels, prefix="bert." if family == "bert" else "roberta.")
    query, text = ids_of("the cat"), [*map(WORDS.index, ("sat", "on", "mat")), WORDS.index("[SEP]")]
    states = states_of(query + text, [0] * len(query) + [1] * len(text), weights, first=0 if family == "bert" else 2)
    if family == "bert":
        logits = linear(np.tanh(linear(states[0], weights, "pooler.dense")), weights, "classifier")
    else:
        logits = linear(np.tanh(linear(states[0], weights, "classifier.dense")), weights, "classifier.out_proj")
    wanted = 1 / (1 + math.exp(-logits[0])) if labels == 1 else softmax(logits)[-1]
    with loaded(tmp_path) as engine:
        engine.load(lambda done: None)
        made = engine.embed(Embed(request=REQUEST, texts=("sat on mat", "a"), query="the cat"))
    assert rows(made)[0, 0] == pytest.approx(wanted, abs=1e-5)
    assert rows(made).shape == (2, 1)


def test_language_models_that_embed_are_read_by_their_last_state() -> None:
    """The model says words and was not trained for this: only that its states are found and do not see padding."""
    with loaded(AGENT_FULL) as engine:
        engine.load(lambda done: None)
        together = rows(engine.embed(Embed(request=REQUEST, texts=("hello there", "a text that is longer"))))
        alone = rows(engine.embed(Embed(request=REQUEST, texts=("hello there",))))
    assert np.abs(together[0] - alone[0]).max() < 1e-4
    assert np.linalg.norm(alone[0]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (Embed(request=REQUEST, texts=("a " * POSITIONS,)), PromptTooLongError),
        (Embed(request=REQUEST, rows=(pack_ids((1, 500)),)), InvalidRequestError),
        (Embed(request=REQUEST, texts=("a " * POSITIONS,), query="b"), PromptTooLongError),
    ],
)
def test_what_the_model_cannot_read_is_refused(engine: EmbeddingsEngine, work: Embed, error: type[Exception]) -> None:
    with pytest.raises(error):
        engine.embed(work)


def test_it_says_no_words_and_others_make_no_vectors(engine: EmbeddingsEngine) -> None:
    with pytest.raises(UnsupportedWorkError):
        engine.prepare(REQUEST)
    made, usage = embed(engine, Embed(request=REQUEST, texts=("a",)))
    assert usage == Usage(input_tokens=made.input_tokens)
    other = build_engine(ModelSpec(id="m", source="echo", engine="echo"), Settings())
    with pytest.raises(UnsupportedWorkError, match="embed"):
        embed(other, Embed(request=REQUEST, texts=("a",)))


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_no_embedding_model_is_named_with_the_reason(tmp_path: Path, broken: str) -> None:
    build_bert(tmp_path)
    (tmp_path / broken).write_text("{}")
    with pytest.raises(ModelUnavailableError):
        with loaded(tmp_path) as engine:
            engine.load(lambda done: None)


def test_layers_that_would_change_every_vector_are_no_surprise(tmp_path: Path) -> None:
    build_bert(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    with loaded(tmp_path) as engine, pytest.raises(ModelUnavailableError, match="Dense"):
        engine.load(lambda done: None)


def test_weights_that_are_missing_are_told(tmp_path: Path) -> None:
    build_bert(tmp_path, prefix="somebody.elses.")
    with loaded(tmp_path) as engine, pytest.raises(ModelUnavailableError, match=r"embeddings\."):
        engine.load(lambda done: None)
