"""A chat completion that this gateway asks of itself, as a client would, with the times of its tokens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message

from gateway.dialects.priority import PRIORITY_HEADER
from gateway.http.staying import StayingClient
from gateway.keys.holder import Holder
from shared.errors import ModelUnavailableError
from shared.exact import dump_bytes

_PATH: Final = "/v1/chat/completions"
_SAID: Final = ("content", "reasoning_content", "reasoning", "tool_calls")
_DATA: Final = b"data: "


class TimedAnswer(StayingClient):
    """`first_s` and `last_s` are seconds since it asked, None while nothing was said; `usage` is
    what the answer says of itself."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._began_s = time.monotonic()
        self._rest = b""
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.usage: Mapping[str, Any] = {}

    async def send(self, message: Message) -> None:
        """Raises `ModelUnavailableError` for an answer that ends in an error."""
        for event in self._events(message.get("body", b"")):
            if "error" in event:
                raise ModelUnavailableError(str(event["error"].get("message", "the answer ended in an error")))
            self.usage = event.get("usage") or self.usage
            if any(choice["delta"].get(name) for choice in event.get("choices", ()) for name in _SAID):
                self.last_s = time.monotonic() - self._began_s
                self.first_s = self.last_s if self.first_s is None else self.first_s

    def _events(self, data: bytes) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(_DATA) and not line.startswith(b"data: [DONE]"):
                yield orjson.loads(line.removeprefix(_DATA))


async def ask_timed(app: ASGIApp, holder: Holder, *, model: str, prompt: str, most_tokens: int) -> TimedAnswer:
    """In the lowest class, of this model and of no other, whatever rules and fallbacks say. `app` are the routes
    without what keeps strangers out. Raises `GatewayError`."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": most_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": _PATH,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (PRIORITY_HEADER.encode(), b"batch")],
        "state": {
            "request_id": f"req_{secrets.token_hex(12)}",
            "started_s": time.monotonic(),
            "holder": holder,
            "is_exact": True,
        },
    }
    answer = TimedAnswer(dump_bytes(body))
    await app(scope, answer.receive, answer.send)
    return answer
