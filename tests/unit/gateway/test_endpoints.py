"""A bug that meets one answer on its way out is told to its client, in the client's own shape."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.app import GatewayApp, create_app
from gateway.dialects.anthropic.dialect import AnthropicDialect
from gateway.dialects.anthropic.render import MessageReply, MessageStream
from gateway.dialects.base import Dialect, Parsed, RenderContext
from gateway.dialects.openai_chat.dialect import OpenAIChatDialect
from gateway.dialects.openai_chat.render import ChatReply, ChunkStream
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.tasks import cancel_all
from gateway.http.endpoints import Generate
from gateway.http.middleware import ErrorAnswers
from gateway.http.replies import ClientDisconnectedError
from gateway.http.staying import StayingClient
from gateway.parts import Parts
from shared.config import Settings
from shared.events import Completion, Event, TextDelta
from shared.request import GenerateRequest
from tests.support.gateway import FINISHED, STARTED, HandWorker, text, until
from tests.support.sealed import SECRET


class BrokenMessages(MessageStream):
    def feed(self, event: Event, choice: int = 0) -> bytes:
        if isinstance(event, TextDelta):
            raise KeyError("a bug")
        return super().feed(event, choice)


class BrokenChunks(ChunkStream):
    def feed(self, event: Event, choice: int = 0) -> bytes:
        if isinstance(event, TextDelta):
            raise KeyError("a bug")
        return super().feed(event, choice)


class BrokenMessageReply(MessageReply):
    def stream(self, context: RenderContext) -> MessageStream:
        return BrokenMessages(self, context)

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        raise KeyError("a bug")


class BrokenChatReply(ChatReply):
    def stream(self, context: RenderContext) -> ChunkStream:
        return BrokenChunks(self, context)

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        raise KeyError("a bug")


class BrokenAnthropic(AnthropicDialect):
    def parse_request(self, *args: Any, **kwargs: Any) -> Parsed:
        return replace(super().parse_request(*args, **kwargs), reply=BrokenMessageReply())


class BrokenOpenAIChat(OpenAIChatDialect):
    def parse_request(self, *args: Any, **kwargs: Any) -> Parsed:
        return replace(super().parse_request(*args, **kwargs), reply=BrokenChatReply())


PATHS = {BrokenAnthropic: "/v1/messages", BrokenOpenAIChat: "/v1/chat/completions"}


def _is_placed(parts: Parts) -> bool:
    return any(each.attempt.is_for("host") for each in parts.hub.dispatches.values())


async def exchange(app: GatewayApp, dialect: Dialect, path: str, *, stream: bool) -> tuple[int, bytes]:
    """Status and body of an answer of a few words, as far as the gateway gets with it."""
    parts = app.parts
    endpoint = ErrorAnswers(Generate(parts, dialect))
    body = {"model": "m", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    sent: list[Any] = []
    requests = [{"type": "http.request", "body": orjson.dumps(body)}]

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [], "state": {"request_id": "req_1", "started_s": 0.0}}
    worker = HandWorker(parts.jobs._redis, parts.hub.gateway_id)
    async with worker.living():
        await until(lambda: parts.fleet.snapshot.workers, "the worker is seen")
        answering = asyncio.create_task(endpoint(scope, receive, send))
        await until(lambda: _is_placed(parts), "the request is placed: before that nobody may answer it")
        await worker.say("req_1", STARTED, text("a word"), FINISHED)
        await asyncio.wait_for(answering, 30)
    assert not parts.hub.dispatches
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", PATHS)
def test_a_bug_while_an_answer_is_rendered_is_told_to_its_client(
    redis_url: str, tmp_path: Path, dialect: type[Dialect], stream: bool
) -> None:
    async def main() -> tuple[int, bytes]:
        app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path, secret=SECRET))
        async with app.router.lifespan_context(app):
            await until(lambda: app.parts.hub.is_connected, "the gateway listens")
            return await exchange(app, dialect(), PATHS[dialect], stream=stream)

    status, body = asyncio.run(main())
    last = orjson.loads(body.rpartition(b"data: ")[2].strip() if stream else body)
    assert status == (200 if stream else 500)
    assert last["error"]["type"] in ("api_error", "server_error")
    assert b"a bug" not in body
    assert b"[DONE]" not in body
    assert b"message_stop" not in body


def test_a_client_that_leaves_while_its_choices_are_begun_begins_no_more_of_them(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    async def main() -> str:
        app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path, secret=SECRET))
        async with app.router.lifespan_context(app):
            await until(lambda: app.parts.hub.is_connected, "the gateway listens")
            return await leave_early(app, begun, monkeypatch)

    assert asyncio.run(main()) == "cancelled"
    assert len(begun) == 2, "of eight"


async def leave_early(app: GatewayApp, begun: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The outcome of a request for eight choices, whose client leaves while the second is begun."""
    parts = app.parts
    body = {"model": "m", "n": 8, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    requests = [{"type": "http.request", "body": orjson.dumps(body)}]
    is_enough, has_left = asyncio.Event(), asyncio.Event()
    admit = parts.dispatcher.admit

    async def counted(request: GenerateRequest, **how: bool) -> Dispatch:
        begun.append(request.id)
        if len(begun) == 2:
            is_enough.set()
            await has_left.wait()
        return await admit(request, **how)

    monkeypatch.setattr(parts.dispatcher, "admit", counted)

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await is_enough.wait()
        has_left.set()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        """Nobody reads it."""

    state: dict[str, Any] = {"request_id": "req_1", "started_s": 0.0}
    scope = {"type": "http", "path": "/v1/chat/completions", "headers": [], "state": state}
    async with HandWorker(parts.jobs._redis, parts.hub.gateway_id).living():
        await until(lambda: parts.fleet.snapshot.workers, "the worker is seen")
        with contextlib.suppress(ClientDisconnectedError):
            await Generate(parts, OpenAIChatDialect())(scope, receive, send)
    assert not parts.hub.dispatches
    return str(state["outcome"])


def test_what_is_cancelled_from_in_here_counts_as_cancelled(redis_url: str, tmp_path: Path) -> None:
    async def main() -> Mapping[str, Any]:
        app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path, secret=SECRET))
        async with app.router.lifespan_context(app):
            await until(lambda: app.parts.hub.is_connected, "the gateway listens")
            return await cancel_one(app)

    told = asyncio.run(main())
    assert (told["id"], told["outcome"]) == ("req_1", "cancelled")


async def cancel_one(app: GatewayApp) -> Mapping[str, Any]:
    """The trace of a request whose task is cancelled while its answer is waited for."""
    parts = app.parts
    client = StayingClient(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}))

    async def send(_: Any) -> None:
        """Nobody reads it."""

    state = {"request_id": "req_1", "started_s": 0.0}
    scope = {"type": "http", "path": "/v1/chat/completions", "headers": [], "state": state}
    async with HandWorker(parts.jobs._redis, parts.hub.gateway_id).living():
        await until(lambda: parts.fleet.snapshot.workers, "the worker is seen")
        answering = asyncio.create_task(Generate(parts, OpenAIChatDialect())(scope, client.receive, send))
        await until(lambda: parts.hub.dispatches, "the request is under way")
        await cancel_all([answering])
    (line,) = parts.traces.recent.since(0)
    told: Mapping[str, Any] = orjson.loads(line)
    return told
