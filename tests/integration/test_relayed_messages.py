"""A client of Anthropic's API whose model is behind a server of that API: a stand-in, which says so, and a second
mlx-gateway. What they do not prove: that Anthropic's own servers still answer so."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.processes import wait_until
from tests.support.up import Up, up
from tests.support.upstream_stand_ins import AnthropicStandIn, serving

pytestmark = pytest.mark.timeout(120)

MESSAGE = {"type": "message", "id": "msg_there", "role": "assistant", "model": "claude-x", "content": []}
USAGE = {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 5, "output_tokens": 1}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "usage": USAGE}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "EqQB"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}},
    {"type": "message_stop"},
]
STREAM = b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in EVENTS)
LIMITED = {"type": "error", "error": {"type": "rate_limit_error", "message": "over your limit"}, "request_id": "req_x"}
BETA = {"anthropic-beta": "context-1m", "anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def stand_in() -> AnthropicStandIn:
    return AnthropicStandIn(EVENTS, whole={**MESSAGE, "stop_reason": "end_turn", "usage": USAGE})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, stand_in: AnthropicStandIn) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("relayed")
    config = folder / "config"
    config.mkdir()
    with ExitStack() as stack:
        url = stack.enter_context(serving(stand_in))
        remote = {"id": "cloud", "url": url, "model": "claude-x", "profile": "anthropic", "key": "sk-there"}
        (config / "remotes.json").write_text(json.dumps({"remotes": [remote]}))
        (config / "claude_routing.json").write_text('{"tiers": {"opus": "cloud"}}')
        one = stack.enter_context(up(folder / "first", "--config", str(config)))
        one.wait_until_ready()
        wait_until(lambda: ask(one.url, body())[0] == 200, "the upstream's worker", deadline_s=60)
        yield one


def body(text: str = "hello", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]}]
    return json.dumps({"model": "claude-opus-4-1", "max_tokens": 9, "messages": messages, **fields}, indent=1).encode()


def ask(url: str, data: bytes, path: str = "/v1/messages") -> tuple[int, dict[str, str], bytes]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request("POST", path, data, {"content-type": "application/json", "x-api-key": "mine", **BETA})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def renamed(data: bytes) -> bytes:
    return data.replace(b'"model": "claude-opus-4-1"', b'"model": "claude-x"')


def test_the_clients_bytes_go_on_and_the_servers_come_back(served: Up, stand_in: AnthropicStandIn) -> None:
    sent = body(
        stream=True, thinking={"type": "enabled", "budget_tokens": 1024}, mcp_servers=[], new_field={"a": 1e300}
    )
    status, headers, came = ask(served.url, sent)
    assert (status, came) == (200, STREAM)
    assert stand_in.raw[-1] == renamed(sent)
    assert headers["anthropic-ratelimit-requests-remaining"] == "41"
    assert "x-mlx-gateway-warnings" not in headers
    _, asked, _ = stand_in.asked[-1]
    assert (asked["x-api-key"], asked["anthropic-beta"]) == ("sk-there", "context-1m")
    sent = body("again", metadata={"user_id": "u"})
    status, headers, came = ask(served.url, sent)
    assert (status, json.loads(came), stand_in.raw[-1]) == (200, stand_in.whole, renamed(sent))
    assert (headers["anthropic-ratelimit-requests-remaining"], headers["x-mlx-gateway-upstream-request-id"]) == (
        "41",
        "req_there",
    )
    status, _, came = ask(served.url, renamed(body()).replace(b"claude-x", b"cloud"), "/v1/messages/count_tokens")
    assert (status, json.loads(came)) == (200, {"input_tokens": 1234})


def test_a_limit_comes_back_as_it_is_and_no_second_request_is_made(served: Up, stand_in: AnthropicStandIn) -> None:
    before, events = len(stand_in.asked), stand_in.events
    stand_in.events = (429, LIMITED)
    try:
        for stream in (True, False):
            status, headers, came = ask(served.url, body("limited", stream=stream))
            assert (status, json.loads(came), headers["retry-after"]) == (429, LIMITED, "7")
    finally:
        stand_in.events = events
    assert len(stand_in.asked) == before + 2


def test_an_openai_client_of_the_same_model_is_translated(served: Up, stand_in: AnthropicStandIn) -> None:
    sent = {"model": "cloud", "messages": [{"role": "user", "content": "hi"}]}
    status, answer = served.request("POST", "/v1/chat/completions", sent)
    assert (status, answer["object"]) == (200, "chat.completion")
    assert json.loads(stand_in.raw[-1])["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.slow
def test_a_second_gateway_answers_as_it_would_be_asked_itself(tmp_path: Path) -> None:
    with ExitStack() as stack:
        second = stack.enter_context(up(tmp_path / "second"))
        second.wait_until_ready()
        _, listed = second.request("GET", "/v1/models")
        remote = {"id": "there", "url": second.url, "model": f"anthropic/{listed['data'][0]['id']}"}
        config = tmp_path / "config"
        config.mkdir()
        (config / "remotes.json").write_text(json.dumps({"remotes": [{**remote, "profile": "anthropic"}]}))
        first = stack.enter_context(up(tmp_path / "first", "--config", str(config)))
        first.wait_until_ready()
        data = body("one two three", stream=True, temperature=0).replace(b"claude-opus-4-1", b"there")
        wait_until(lambda: ask(first.url, data)[0] == 200, "the upstream's worker", deadline_s=60)
        through = ask(first.url, data)[2]
        direct = ask(second.url, data.replace(b'"there"', json.dumps(remote["model"]).encode()))[2]
        assert b"message_stop" in through
        assert without_ids(through) == without_ids(direct)
        long = body("word " * 300_000).replace(b"claude-opus-4-1", b"there")
        status, _, came = ask(first.url, long)
        asked = ask(second.url, long.replace(b'"there"', json.dumps(remote["model"]).encode()))
        assert (status, "prompt is too long" in came.decode()) == (400, True)
        assert (status, json.loads(came)["error"]) == (asked[0], json.loads(asked[2])["error"])


def without_ids(stream: bytes) -> list[Any]:
    """Of a stream: its events, what is its own taken out."""
    events = [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: ")]
    for event in events:
        event.get("message", {}).pop("id", None)
        event.get("message", {}).pop("usage", None)
        event.pop("usage", None)
    return [event for event in events if event["type"] != "ping"]
