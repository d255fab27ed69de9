"""What clients of both vendors' APIs hear of a server that lies: an error in their own shape, whole or within a stream,
and then the next answer. All ways to lie: `tests/unit/worker/test_lying_upstreams.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from shared.redis_server import RedisServer
from tests.support.rude_upstream import GOOD, SSE, RudeUpstream, delta, event, serving_rudely, whole
from tests.support.served import Served, message, served

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
NONSENSE = event(b'{"choices": [{"del')
CASES = {
    "an event that is no JSON": (SSE + NONSENSE, "no JSON"),
    "a redirect": (whole(b"", status="308 P", location="http://127.0.0.1:1/"), "another address"),
    "busy for a year": (whole(b'{"error": {"message": "busy"}}', status="429 S", retry_after="31536000"), "busy"),
    "an error in a 200": (whole(b'{"error": {"message": "it broke"}}'), "it broke"),
    "a compressed answer": (whole(b"\x1f\x8b", content_encoding="gzip"), "compressed"),
}


@dataclass(frozen=True)
class Site:
    gateway: Served
    upstream: RudeUpstream


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rude")
    upstream = RudeUpstream(GOOD)
    with serving_rudely(upstream) as url, RedisServer() as server:
        entry = {"id": "far", "url": url, "profile": "openai", "key": "secret"}
        (folder / "config").mkdir()
        (folder / "config" / "remotes.json").write_text(json.dumps({"remotes": [entry]}))
        with (
            served(server.url, folder, config_dir=folder / "config") as gateway,
            gateway.worker("far", engine="remote"),
        ):
            yield Site(gateway, upstream)


def error_of(path: str, body: object) -> str:
    """The words, in the dialect's own shape."""
    assert isinstance(body, dict)
    if path == MESSAGES:
        assert body["type"] == "error"
    assert body["error"]["type"]
    return str(body["error"]["message"])


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
@pytest.mark.parametrize("case", CASES)
def test_a_lie_is_an_error_in_the_clients_own_shape_and_the_next_answer_comes(site: Site, case: str, path: str) -> None:
    script, words = CASES[case]
    for stream in (False, True):
        site.upstream.script = script
        reply = site.gateway.post(path, message("hello", model="far", stream=stream))
        assert 400 <= reply.status < 600
        assert words in error_of(path, reply.json)
        assert 0 < int(reply.headers.get("retry-after", "1")) <= 600
        site.upstream.script = GOOD
        again = site.gateway.post(path, message("hello", model="far"))
        assert (again.status, b"good" in again.body) == (200, True)


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_a_lie_within_an_answer_is_an_error_within_the_stream(site: Site, path: str) -> None:
    site.upstream.script = SSE + delta(content="so far") + NONSENSE
    with site.gateway.stream(path, message("hello", model="far", stream=True)) as source:
        assert source.status == 200
        said = [data for name, data in source if name != "comment" and data != "[DONE]"]
    assert "so far" in "".join(said)
    assert "no JSON" in error_of(path, json.loads(said[-1]))
