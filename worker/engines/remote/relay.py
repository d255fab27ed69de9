"""Anthropic's Messages API from a client of that API to a server of it: what each says reaches the other as it was
written. Pure.

The client's body keeps its bytes, but for the model's name; what a profile or the settings say and the client does not
is put before the rest. Of the answer each event is passed on whole, and read for nothing but its counts and its end.
https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import orjson

from shared.errors import GatewayError, WorkerLostError
from shared.events import Event, Finished, FinishReason, Relayed, Started, Usage
from shared.http_client import MOST_LINE_BYTES, AskError
from shared.request import GenerateRequest
from worker.engines.remote.anthropic import usage_of
from worker.engines.remote.edits import with_missing, with_text
from worker.engines.remote.pieces import Reported, count_of, reading
from worker.engines.remote.words import translate

_FINISHES: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "refusal": "content_filter",
    "model_context_window_exceeded": "context_length",
}
_LIMITS = ("retry-after", "x-should-retry", "anthropic-ratelimit-")  # names, and what they begin with
_KEY_REFUSED = 401  # the key is none of the client's, who is told in our words


def relayed_body(request: GenerateRequest, model: str) -> bytes:
    """What is sent on."""
    return with_missing(with_text(request.original, "model", model), _filled_in(request))


def counted_body(request: GenerateRequest, model: str) -> bytes:
    """As `relayed_body`, to count: that takes a system text, and nothing of sampling."""
    given = {"system": request.default_system} if request.default_system else {}
    return with_missing(with_text(request.original, "model", model), given)


def _filled_in(request: GenerateRequest) -> dict[str, Any]:
    sampling = request.sampling
    values = {
        "system": request.default_system or None,
        "temperature": None if sampling.temperature is None else min(sampling.temperature, 1.0),
        # (It takes one of the two.)
        "top_p": sampling.top_p if sampling.temperature is None else None,
        "top_k": sampling.top_k or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def passed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Of an answer: its limits, and the server's name for it."""
    passed = {name: value for name, value in headers.items() if name.startswith(_LIMITS)}
    if name := headers.get("request-id"):
        passed["x-mlx-gateway-upstream-request-id"] = name
    return passed


def refusal(who: str, status: int, headers: Mapping[str, str], body: bytes, *, is_relayed: bool) -> GatewayError:
    """By its meaning, for who decides on it; relayed, also as it was written, for the client."""
    data = _object(body)
    error = translate(who, status, data, headers.get("retry-after", ""))
    if is_relayed and status != _KEY_REFUSED and isinstance(data.get("error"), dict):
        error.details["relayed"] = {"status": status, "body": body, "headers": passed_headers(headers)}
    return error


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


async def blocks(lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Server-sent events, each whole, its empty line included. Raises `AskError` for one without end."""
    block: list[bytes] = []
    size = 0
    async for line in lines:
        size += len(line)
        if size > MOST_LINE_BYTES:
            raise AskError(f"an event is longer than {MOST_LINE_BYTES >> 20} MB", has_answered=True)
        if line:
            block.append(line)
        elif block:
            yield b"\n".join([*block, b"", b""])
            block, size = [], 0
    if block:
        yield b"\n".join([*block, b"", b""])


class RelayedAnswer:
    """One answer on its way back. `who` names the server to the client."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._headers: dict[str, str] = {}
        self._reported = Reported()
        self._reason: FinishReason = "stop"
        self._stop = ""
        self._failure: GatewayError | None = None
        self.is_started = self.is_over = False

    def opened(self, headers: Mapping[str, str]) -> None:
        """Before anything is fed."""
        self._headers = passed_headers(headers)

    def usage(self) -> Usage:
        return Usage(
            input_tokens=self._reported.input_tokens,
            cached_tokens=self._reported.cached_tokens,
            output_tokens=self._reported.output_tokens,
            reasoning_tokens=self._reported.reasoning_tokens,
        )

    def whole(self, body: bytes) -> list[Event]:
        """Of an answer that is not streamed. Raises `WorkerLostError` for what is no message, the error that stands in
        its place, and `AskError`."""
        data = _object(body)
        if data.get("error"):
            raise translate(self._who, 500, data)
        if data.get("type") != "message":
            raise WorkerLostError(f"{self._who}: what it answers is no message")
        with reading():
            self._note_counts(data)
            self._note_end(data)
        return [*self._begun(body), *self._end()]

    def feed(self, block: bytes) -> list[Event]:
        """Of one event of a stream, as it came. Raises `AskError` for one that its client could not read either."""
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                self._read_line(line[5:])
        return [*self._begun(block), *(self._end() if self.is_over else ())]

    def check(self) -> None:
        """At the stream's end. Raises the error that it has told its client, and `WorkerLostError` where it has told
        no end."""
        if self._failure is not None:
            raise self._failure
        if not self.is_over:
            raise WorkerLostError(f"{self._who}: the server's stream ended without its last event")

    def _begun(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if not self.is_started:
            events.append(Started(usage=self.usage()))
        events.append(Relayed(data=data, headers={} if self.is_started else self._headers))
        self.is_started = True
        return events

    def _end(self) -> list[Event]:
        self.is_over = True
        return [Finished(reason=self._reason, usage=self.usage(), stop_sequence=self._stop)]

    def _read_line(self, line: bytes) -> None:
        with reading():
            self._read(orjson.loads(line))

    def _read(self, data: Mapping[str, Any]) -> None:
        match data.get("type"):
            case "message_start":
                self._note_counts(data.get("message") or {})
            case "message_delta":
                self._note_counts(data)
                self._note_end(data.get("delta") or {})
            case "message_stop":
                self.is_over = True
            case "error":
                self._failure = translate(self._who, 500, data)
                self._failure.details["is_told"] = True

    def _note_counts(self, data: Mapping[str, Any]) -> None:
        usage = data.get("usage") or {}
        if "input_tokens" in usage:
            prompt = usage_of(usage)
            self._reported = Reported(input_tokens=prompt.input_tokens, cached_tokens=prompt.cached_tokens)
        if "output_tokens" in usage:
            self._reported = Reported(
                input_tokens=self._reported.input_tokens,
                cached_tokens=self._reported.cached_tokens,
                output_tokens=count_of(usage["output_tokens"]),
                reasoning_tokens=count_of((usage.get("output_tokens_details") or {}).get("thinking_tokens")),
            )

    def _note_end(self, data: Mapping[str, Any]) -> None:
        self._reason = _FINISHES.get(str(data.get("stop_reason") or ""), "stop")
        self._stop = str(data.get("stop_sequence") or "")
