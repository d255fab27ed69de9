"""A bug that meets one answer on its way out is told to its client, in the client's own shape."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
from gateway.http.endpoints import Generate
from gateway.http.middleware import ErrorAnswers
from gateway.parts import Parts
from shared.config import Settings
from shared.events import Completion, Event, TextDelta
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
