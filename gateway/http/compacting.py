"""`/v1/responses/compact`, by the way of every response."""

from __future__ import annotations

from dataclasses import replace

from starlette.types import Message, Receive, Scope

from gateway.dialects.base import Parsed
from gateway.dialects.openai_responses.compacting import CompactedReply, with_trigger
from gateway.http.endpoints import Generate
from gateway.http.replies import read_raw
from gateway.trace.story import Story


class Compact(Generate):
    """An ASGI application."""

    async def parse(self, scope: Scope, receive: Receive, *, counting: bool, story: Story | None = None) -> Parsed:
        body = with_trigger(await read_raw(receive))

        async def changed() -> Message:
            return {"type": "http.request", "body": body}

        parsed = await super().parse(scope, changed, counting=counting, story=story)
        return replace(parsed, reply=CompactedReply(parsed.reply), stream=False, items=None)
