"""Images from a client's HTTP request to a model that reads them, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.redis_server import RedisServer
from tests.support.images import image_part
from tests.support.models import CheckpointMaker
from tests.support.processes import running, wait_until
from tests.support.served import Reply, Served, served

MODEL = "eyes"
NOTE = {"type": "text", "text": "What is in this picture, and which colours has it? Say it in a few words. "}
TOOL = {"name": "read", "description": "Reads a file", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: CheckpointMaker) -> Iterator[Served]:
    """A gateway, and a worker whose model reads images."""
    folder: Path = tmp_path_factory.mktemp("images")
    model = str(random_checkpoint("vision"))
    with RedisServer() as redis, served(redis.url, folder) as gateway:
        command = ("-m", "tests.support.muse_spark", "--model", model, "--name", MODEL, "--host", "host")
        environment = {**gateway.env, "MLX_CACHE_MIN_REUSE": "16"}
        with running(*command, log=folder / "worker.log", env=environment) as worker:
            wait_until(lambda: MODEL in gateway.ready() or worker.process.poll() is not None, "the model is ready")
            assert worker.process.poll() is None, worker.output()
            yield gateway


def image(seed: int) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": image_part(seed).data}}


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def send(gateway: Served, *messages: dict[str, Any], path: str = "/v1/messages", **fields: Any) -> Reply:
    body = {"model": MODEL, "max_tokens": 20, "temperature": 0.0, "messages": list(messages), **fields}
    return gateway.post(path, body)


def read(gateway: Served, *messages: dict[str, Any], **fields: Any) -> tuple[list[Any], int, int]:
    """What was answered, and how many tokens of the prompt were there and computed."""
    reply = send(gateway, *messages, **fields)
    assert reply.status == 200, reply.body
    usage = reply.json["usage"]
    return reply.json["content"], usage["cache_read_input_tokens"], usage["input_tokens"]


def test_an_image_is_seen_counted_and_found_again(gateway: Served) -> None:
    first = user(NOTE, image(1))
    counted = send(gateway, first, path="/v1/messages/count_tokens").json["input_tokens"]
    said, cached, computed = read(gateway, first)
    assert said
    assert cached + computed == counted
    grown = [first, {"role": "assistant", "content": said}, user({"type": "text", "text": "And behind it?"})]
    _, cached, computed = read(gateway, *grown)
    assert cached >= counted - 5  # all but the header of the answer, at most
    assert computed < 40
    other, cached, _ = read(gateway, user(NOTE, image(2)))
    assert cached < counted - 12  # none of the image's tokens
    assert other != said


def test_an_image_in_a_tool_result_is_seen(gateway: Served) -> None:
    def about(seed: int) -> list[dict[str, Any]]:
        call = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a.png"}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image(seed)]}
        return [user(NOTE), {"role": "assistant", "content": [call]}, user(result)]

    answers = [read(gateway, *about(seed), tools=[TOOL])[0] for seed in (3, 4, 3)]
    assert answers[0] == answers[2] != answers[1]


def test_both_dialects_show_the_model_the_same(gateway: Served) -> None:
    url = f"data:image/png;base64,{image_part(5).data}"
    chat = user(NOTE, {"type": "image_url", "image_url": {"url": url, "detail": "high"}})
    reply = send(gateway, chat, path="/v1/chat/completions")
    assert reply.status == 200, reply.body
    said, cached, computed = read(gateway, user(NOTE, image(5)))
    assert "".join(block.get("text", "") for block in said) == reply.json["choices"][0]["message"]["content"]
    assert cached + computed == reply.json["usage"]["prompt_tokens"]


def test_a_model_that_reads_images_says_so(gateway: Served) -> None:
    (model,) = gateway.get("/v1/models", {"anthropic-version": "2023-06-01"}).json["data"]
    assert model["capabilities"]["image_input"] == {"supported": True}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}, "not a PNG, JPEG, GIF or WebP"),
        ({"type": "base64", "media_type": "image/png", "data": "?"}, "not base64"),
        ({"type": "url", "url": "http://127.0.0.1:1/a.png"}, "image URLs are not fetched"),
    ],
    ids=["no image", "no base64", "url"],
)
def test_what_cannot_be_read_is_the_clients_error_in_its_own_shape(
    gateway: Served, source: dict[str, Any], words: str
) -> None:
    reply = send(gateway, user(NOTE, {"type": "image", "source": source}))
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json["error"]["message"].startswith("Could not process image: ")
    assert words in reply.json["error"]["message"]
    url = source.get("url") or f"data:image/png;base64,{source['data']}"
    reply = send(gateway, user(NOTE, {"type": "image_url", "image_url": {"url": url}}), path="/v1/chat/completions")
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert words in reply.json["error"]["message"]
