"""The layers around every request, called as a server calls them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.auth import Authentication
from gateway.http.middleware import BodyLimit, ErrorAnswers, RequestContext
from gateway.http.replies import dialect_of, read_body, send_json
from gateway.http.visitors import Visitors
from gateway.keys.check import KeyCheck
from gateway.keys.file import KeyFile
from shared.errors import OverloadedError, RequestTooLargeError


def scope_of(path: str = "/v1/messages", method: str = "POST", headers: dict[str, str] | None = None) -> Scope:
    pairs = [(name.encode(), value.encode()) for name, value in ({"host": "localhost"} | (headers or {})).items()]
    return {"type": "http", "method": method, "path": path, "headers": pairs}


def call(app: ASGIApp, scope: Scope, body: Iterable[bytes] = (b"{}",)) -> list[Message]:
    """Every message the application sent. After the body the client stays silent."""
    chunks = list(body)
    messages: list[Message] = []

    async def receive() -> Message:
        if not chunks:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return messages


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, 200, {"bytes": (await read_body(receive)).size_bytes})


def failing_with(error: Exception, *, after_start: bool = False) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_start:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def guarded(app: ASGIApp) -> ASGIApp:
    return RequestContext(ErrorAnswers(app))


def answer(messages: list[Message]) -> tuple[int, dict[str, str], Any]:
    start, *bodies = messages
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, orjson.loads(b"".join(body["body"] for body in bodies))


def test_an_unexpected_error_is_an_answer_with_its_request_id_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status, headers, body = answer(call(guarded(failing_with(KeyError("a bug"))), scope_of()))
    assert (status, body["error"]["type"]) == (500, "api_error")
    assert "a bug" not in body["error"]["message"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert headers["request-id"] in record.getMessage()
    assert record.exc_info


def test_an_error_meant_for_the_client_keeps_its_shape_and_headers() -> None:
    error = OverloadedError("too much", retry_after_s=7)
    status, headers, body = answer(call(guarded(failing_with(error)), scope_of("/v1/chat/completions")))
    assert (status, headers["retry-after"], body["error"]["message"]) == (503, "7", "too much")


def test_an_error_after_the_start_of_the_response_ends_the_connection_instead_of_a_second_answer() -> None:
    with pytest.raises(OverloadedError):
        call(guarded(failing_with(OverloadedError("too late"), after_start=True)), scope_of())


class Trickling:
    """A client that sends its body piece by piece, each when the loop has nothing else to do."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces
        self.sent_before_the_answer: int | None = None
        self.messages: list[Message] = []

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        self.left -= 1
        return {"type": "http.request", "body": b"x", "more_body": self.left > 0}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        if self.sent_before_the_answer is None:
            self.sent_before_the_answer = 100 - self.left


def test_an_error_comes_before_the_body_and_the_rest_is_read_so_that_every_client_sees_it() -> None:
    client = Trickling(100)
    asyncio.run(guarded(failing_with(OverloadedError("no")))(scope_of(), client.receive, client.send))  # type: ignore[arg-type]
    status, headers, _ = answer(client.messages)
    assert (status, headers["connection"]) == (529, "close")
    assert client.sent_before_the_answer is not None
    assert client.sent_before_the_answer < 5
    assert client.left == 0
    assert client.messages[-1] == {"type": "http.response.body", "body": b""}


def test_when_all_of_the_body_is_there_the_connection_stays_open() -> None:
    chunks = iter([b"x"] * 100)
    messages = call(guarded(failing_with(OverloadedError("no"))), scope_of(), body=chunks)
    assert list(chunks) == []
    assert "connection" not in answer(messages)[1]


def test_a_client_that_leaves_before_its_body_is_complete_gets_nothing_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await hello(scope, receive, send)

    assert call(guarded(app), scope_of()) == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_access_log_has_one_line_that_no_path_can_break(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gateway.access"):
        call(guarded(hello), scope_of("/v1/messages\nreq_fake POST /x 200"))
    (record,) = [record for record in caplog.records if record.name == "gateway.access"]
    assert "\n" not in record.getMessage()
    assert record.getMessage().startswith("req_")
    assert " - 200 " in record.getMessage()


def test_the_access_log_names_the_route(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gateway.access"):
        call(guarded(hello), scope_of("/anthropic/v1/messages"))
    (record,) = [record for record in caplog.records if record.name == "gateway.access"]
    assert " POST /anthropic/v1/messages messages 200 " in record.getMessage()


@pytest.mark.parametrize("chunks", [[b"12345"], [b"123", b"45"]])
def test_a_body_of_exactly_the_limit_passes(chunks: list[bytes]) -> None:
    headers = {"content-length": "5"} if len(chunks) == 1 else {}
    messages = call(BodyLimit(hello, max_bytes=5), scope_of(headers=headers), chunks)
    assert answer(messages)[2] == {"bytes": 5}


@pytest.mark.parametrize("headers", [{}, {"content-length": "6"}, {"content-length": "1"}, {"content-length": "x"}])
def test_one_byte_more_does_not_whatever_its_length_header_says(headers: dict[str, str]) -> None:
    with pytest.raises(RequestTooLargeError):
        call(BodyLimit(hello, max_bytes=5), scope_of(headers=headers), [b"123", b"456"])


NOWHERE = Path("a folder without keys")


def locked(key: str) -> ASGIApp:
    check = KeyCheck(key, KeyFile(NOWHERE), b"secret")
    return guarded(Authentication(hello, check=check, visitors=Visitors(any_host=bool(key))))


def test_without_a_key_everyone_on_this_machine_may_come_in() -> None:
    assert answer(call(locked(""), scope_of()))[0] == 200


@pytest.mark.parametrize("key", ["schlüssel", "a" * 5000, "\udcff"])
def test_keys_that_are_strange_are_wrong_and_not_an_error(key: str) -> None:
    scope = scope_of()
    scope["headers"] += [(b"x-api-key", key.encode("utf-8", "surrogateescape"))]
    status, headers, body = answer(call(locked("right"), scope))
    assert (status, body["error"]["type"]) == (401, "authentication_error")
    assert headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("schlüssel", "schlüssel".encode()),
        ("schlüssel", "schlüssel".encode("latin-1")),
        ("鍵", "鍵".encode()),
        ("\udcff", b"\xff"),
        ("a key", b"a key"),
    ],
)
@pytest.mark.parametrize(("name", "scheme"), [(b"x-api-key", b""), (b"authorization", b"Bearer ")])
def test_a_key_is_its_bytes_as_clients_send_them(key: str, sent: bytes, name: bytes, scheme: bytes) -> None:
    scope = scope_of()
    scope["headers"] += [(name, scheme + sent)]
    assert answer(call(locked(key), scope))[0] == 200
    scope["headers"][-1] = (name, scheme + sent + b"x")
    assert answer(call(locked(key), scope))[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/", 200),
        ("HEAD", "/api/hello", 200),
        ("HEAD", "/anthropic/api/hello", 200),
        ("GET", "/health", 200),
        ("HEAD", "/ready", 200),
        ("GET", "/", 401),
        ("HEAD", "/v1/models", 401),
        ("HEAD", "/v1/models/qwen", 401),
        ("HEAD", "/metrics", 401),
        ("OPTIONS", "/v1/models", 401),
    ],
)
def test_only_what_clients_probe_is_open_without_the_key(method: str, path: str, status: int) -> None:
    assert answer(call(locked("right"), scope_of(path, method)))[0] == status


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", {}, "anthropic"),
        ("/v1/messages/count_tokens", {"authorization": "Bearer k"}, "anthropic"),
        ("/anthropic/v1/models", {}, "anthropic"),
        ("/v1/chat/completions", {"anthropic-version": "x"}, "openai_chat"),
        ("/v1/responses", {}, "openai_responses"),
        ("/v1/models", {}, "openai_chat"),
        ("/v1/models", {"x-api-key": "k"}, "anthropic"),
        ("/v1/models", {"user-agent": "claude-code/2.1.329"}, "anthropic"),
        ("/", {"anthropic-version": "2026-10-21"}, "anthropic"),
    ],
)
def test_a_path_has_the_dialect_of_its_clients(path: str, headers: dict[str, str], dialect: str) -> None:
    assert dialect_of(scope_of(path, headers=headers)).name == dialect


@pytest.mark.parametrize(
    ("joined", "path"),
    [
        ("//v1/messages", "/v1/messages"),
        ("/v1/messages/", "/v1/messages"),
        ("/anthropic//v1///messages//count_tokens/", "/anthropic/v1/messages/count_tokens"),
        ("//", "/"),
        ("/health/", "/health"),
        ("/v1/models/", "/v1/models/"),
        ("//v1//models//folder//of a model", "/v1/models//folder//of a model"),
        ("/anthropic//v1/models/a/b", "/anthropic/v1/models/a/b"),
    ],
)
def test_slashes_too_many_do_not_matter_but_in_the_id_of_a_model(joined: str, path: str) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])

    call(RequestContext(app), scope_of(joined))
    assert seen == [path]
