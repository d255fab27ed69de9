"""`/v1/responses/compact`: a conversation in, its summary as one item out. It is the same request with a
`compaction_trigger` at its end, so that its prompt is the one that lies in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.dialects.base import RenderContext, Reply, StreamRenderer
from gateway.dialects.openai_responses.keeping import item_of
from shared.events import Completion

_TRIGGER: Final = {"type": "compaction_trigger"}
_SHOWN: Final = ("id", "created_at", "output", "usage")


def with_trigger(body: bytes) -> bytes:
    """What is no request stays as it is: whoever reads it next says what is wrong."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(read, dict):
        return body
    given = read.get("input")
    items = given if isinstance(given, list) else [] if given is None else [item_of(given)]
    return orjson.dumps({**read, "input": [*items, _TRIGGER], "stream": False})


@dataclass(frozen=True, slots=True)
class CompactedReply:
    """The answer of the `reply`, as this endpoint shows it."""

    reply: Reply

    def stream(self, context: RenderContext) -> StreamRenderer:
        return self.reply.stream(context)

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        answer = self.reply.render(completions, context)
        return {"object": "response.compaction", **{name: answer[name] for name in _SHOWN}}
