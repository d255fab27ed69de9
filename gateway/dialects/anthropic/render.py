"""Events -> the vendor's stream, and a whole answer -> the vendor's message. Both say the same.

Stream: message_start, ping*, per block content_block_start, content_block_delta*, content_block_stop, then
message_delta and message_stop. One block is open at a time.

Two things no client should have to see:
- An answer without words or tool call. Claude Code takes it for a failure and asks for it again, so a filler ends it
  (which `canonicalise` forgets when it comes back).
- Tool arguments that are no JSON object. In a stream they pass as generated, so that the client can show its model
  what it wrote. A whole message has no place for such text; its input is `{"__unparsedToolInput": {raw, len}}`,
  which is what Claude Code makes of the stream and what `parse` turns back into the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from gateway.canonical import FILLER, has_words
from gateway.dialects.anthropic.breakpoints import NONE, Breakpoints
from gateway.dialects.anthropic.errors import render_envelope
from gateway.dialects.anthropic.schema import STOP_REASONS, UNPARSED_INPUT
from gateway.dialects.anthropic.server_work import render_safeguards, render_search
from gateway.dialects.base import RenderContext
from gateway.dialects.sse import encode_event
from shared.events import (
    Completion,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
    known,
)
from shared.exact import SUSPECT, dump_bytes, load_bytes
from shared.messages import Part, ReasoningPart, TextPart, ToolCallPart

PING = encode_event("ping", {"type": "ping"})

_Block = Literal["text", "thinking", "tool_use"]


def message_id(context: RenderContext) -> str:
    return f"msg_{context.request_id}"


def render_usage(usage: Usage, breakpoints: Breakpoints = NONE) -> dict[str, Any]:
    """Here `input_tokens` leaves out what was cached, and what was written to a cache on demand."""
    written = breakpoints.written(usage)
    return {
        "input_tokens": max(known(usage.input_tokens) - known(usage.cached_tokens) - written.tokens, 0),
        "cache_creation_input_tokens": written.tokens,
        "cache_read_input_tokens": known(usage.cached_tokens),
        "cache_creation": {
            "ephemeral_5m_input_tokens": written.minutes_tokens,
            "ephemeral_1h_input_tokens": written.hour_tokens,
        },
        "output_tokens": known(usage.output_tokens),
        "output_tokens_details": {"thinking_tokens": known(usage.reasoning_tokens)},
    }


def _stop_reason(reason: FinishReason, *, has_calls: bool) -> str:
    """Clients run tools only when told so, whatever made generation stop after a complete call."""
    return STOP_REASONS["tool_calls" if has_calls and reason == "stop" else reason]


def _render_message(context: RenderContext, usage: Usage, breakpoints: Breakpoints) -> dict[str, Any]:
    return {
        "id": message_id(context),
        "type": "message",
        "role": "assistant",
        "model": context.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": render_usage(usage, breakpoints),
    }


class _Signature:
    """What clients must send back with thinking: a hash of its text, so it is the same however often it is made."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def update(self, text: str) -> None:
        self._hash.update(text.encode())

    def text(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReply:
    """How a request wants its answer. `estimated_tokens` of the prompt stand until it is tokenised; `is_warming` asks
    to fill the cache and for no answer; `search` is what the vendor's web search would look for; `safeguards` are the
    checks wanted on the answer; `breakpoints` say what of the prompt is to be cached."""

    estimated_tokens: int = 0
    is_warming: bool = False
    search: str = ""
    safeguards: tuple[str, ...] = ()
    breakpoints: Breakpoints = NONE

    def stream(self, context: RenderContext) -> MessageStream:
        return MessageStream(self, context)

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        """This API has one choice."""
        (completion,) = completions
        if self.is_warming:
            message = _render_message(context, _without_output(completion.usage), self.breakpoints)
            return message | {"stop_reason": STOP_REASONS["length"]}
        has_calls = any(isinstance(part, ToolCallPart) for part in completion.parts)
        return _render_message(context, completion.usage, self.breakpoints) | {
            "content": [*self.search_blocks(context), *(_render_part(part) for part in _filled(completion.parts))],
            "stop_reason": _stop_reason(completion.reason, has_calls=has_calls),
            "stop_sequence": completion.stop_sequence or None,
            **render_safeguards(self.safeguards),
        }

    def search_blocks(self, context: RenderContext) -> tuple[dict[str, Any], ...]:
        """What stands before the model's own blocks."""
        return render_search(self.search, context.request_id) if self.search else ()


def _without_output(usage: Usage) -> Usage:
    return replace(usage, output_tokens=0, reasoning_tokens=0)


def _filled(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    if any(isinstance(part, ToolCallPart) or (isinstance(part, TextPart) and has_words(part.text)) for part in parts):
        return parts
    if parts and isinstance(parts[-1], TextPart):
        return (*parts[:-1], TextPart(text=parts[-1].text + FILLER))
    return (*parts, TextPart(text=FILLER))


def _render_part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ReasoningPart(text=text):
            signature = _Signature()
            signature.update(text)
            return {"type": "thinking", "thinking": text, "signature": signature.text()}
        case ToolCallPart():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": _render_input(part.arguments)}
    raise TypeError(f"{type(part).__name__} is no part of an answer")


def _render_input(arguments: str) -> dict[str, Any] | orjson.Fragment:
    raw = arguments.lstrip()
    if not raw:
        return {}
    data = raw.encode()
    is_exact = SUSPECT.search(data) is not None
    try:
        value = load_bytes(data, is_exact=is_exact)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return {UNPARSED_INPUT: {"raw": raw, "len": len(raw)}}
    return orjson.Fragment(data.rstrip()) if is_exact else value  # as in the stream, to the last digit


class MessageStream:
    """Renders one answer. `start` may come before or after the first `feed`; whichever is first opens the message,
    with the best figure for the prompt that is known by then. The exact one comes with the end. (What was written to
    the cache is told once it is known what was read: clients keep a figure of the opening where the end has a 0.)"""

    def __init__(self, reply: MessageReply, context: RenderContext) -> None:
        self._reply = reply
        self._context = context
        self._usage = Usage(input_tokens=reply.estimated_tokens)
        self._breakpoints = NONE
        self._started = False
        self._block: _Block | None = None
        self._index = -1
        self._signature = _Signature()
        self._has_answer = False
        self._has_calls = False
        self._has_arguments = False
        self._noop_at_s = 0.0
        self._to_announce = reply.search_blocks(context)

    def start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = _render_message(self._context, self._usage, self._breakpoints)
        return encode_event("message_start", {"type": "message_start", "message": message})

    def keepalive(self, silent_s: float) -> bytes:
        """A ping, and now and then an event that changes nothing: Claude Code gives up on a stream after 300 s without
        bytes, and after 600 s without an event that it parses, which a ping is not."""
        opening = self.start()
        if silent_s < self._noop_at_s + self._context.noop_s:
            return opening + PING
        self._noop_at_s = silent_s
        return opening + PING + self._message_delta(None, "", {"output_tokens": known(self._usage.output_tokens)})

    def feed(self, event: Event, choice: int = 0) -> bytes:
        match event:
            case Progress(total_tokens=total):
                if total:
                    self._usage = Usage(input_tokens=total)
                return self.start()
            case Started(usage=usage):
                self._usage, self._breakpoints = usage, self._reply.breakpoints
                return self.start()
            case Failed():
                return encode_event("error", render_envelope(event.error(), self._context.request_id))
        if self._reply.is_warming:
            return self.start() + (self._warmed(event.usage) if isinstance(event, Finished) else b"")
        return self.start() + self._announce() + self._feed_content(event)

    def _warmed(self, usage: Usage) -> bytes:
        return self._end(STOP_REASONS["length"], "", _without_output(usage))

    def _announce(self) -> bytes:
        """The blocks that stand before the model's own."""
        blocks, self._to_announce = self._to_announce, ()
        return b"".join(self._whole_block(block) for block in blocks)

    def _whole_block(self, block: dict[str, Any]) -> bytes:
        self._index += 1
        streamed = block.get("input")
        opening = block | {"input": {}} if streamed is not None else block
        start = {"type": "content_block_start", "index": self._index, "content_block": opening}
        data = encode_event("content_block_start", start)
        if streamed is not None:
            data += self._delta({"type": "input_json_delta", "partial_json": dump_bytes(streamed).decode()})
        return data + encode_event("content_block_stop", {"type": "content_block_stop", "index": self._index})

    def _feed_content(self, event: Event) -> bytes:
        self._noop_at_s = 0.0
        match event:
            case TextDelta(text=text):
                return self._text(text) if text else b""
            case ReasoningDelta(text=text):
                return self._thinking(text) if text else b""
            case ToolCallStarted(id=call_id, name=name):
                self._has_calls = self._has_answer = True
                self._has_arguments = False
                return self._open("tool_use", {"type": "tool_use", "id": call_id, "name": name, "input": {}})
            case ToolCallDelta(arguments=arguments):
                return self._arguments(arguments)
            case ToolCallFinished():
                return self._close()
            case Finished():
                return self._finish(event)
        raise TypeError(f"{type(event).__name__} is not content")

    def _text(self, text: str) -> bytes:
        opening = b"" if self._block == "text" else self._open("text", {"type": "text", "text": ""})
        self._has_answer = self._has_answer or has_words(text)
        return opening + self._delta({"type": "text_delta", "text": text})

    def _thinking(self, text: str) -> bytes:
        opening = b""
        if self._block != "thinking":
            opening = self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._signature = _Signature()
        self._signature.update(text)
        return opening + self._delta({"type": "thinking_delta", "thinking": text})

    def _arguments(self, arguments: str) -> bytes:
        """Leading white space is held back: the SDKs parse what they have after every delta, and fail on nothing."""
        if not self._has_arguments:
            arguments = arguments.lstrip()
        if not arguments:
            return b""
        self._has_arguments = True
        return self._delta({"type": "input_json_delta", "partial_json": arguments})

    def _finish(self, event: Finished) -> bytes:
        filler = b"" if self._has_answer else self._text(FILLER)
        reason = _stop_reason(event.reason, has_calls=self._has_calls)
        return filler + self._close() + self._end(reason, event.stop_sequence, event.usage)

    def _end(self, reason: str, stop_sequence: str, usage: Usage) -> bytes:
        checks = render_safeguards(self._reply.safeguards)
        ending = self._message_delta(reason, stop_sequence, render_usage(usage, self._reply.breakpoints), **checks)
        return ending + encode_event("message_stop", {"type": "message_stop"})

    def _message_delta(self, stop_reason: str | None, stop_sequence: str, usage: dict[str, Any], **more: Any) -> bytes:
        delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence or None, **more}
        return encode_event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})

    def _open(self, block: _Block, content: dict[str, Any]) -> bytes:
        closing = self._close()
        self._block = block
        self._index += 1
        start = {"type": "content_block_start", "index": self._index, "content_block": content}
        return closing + encode_event("content_block_start", start)

    def _delta(self, delta: dict[str, str]) -> bytes:
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return encode_event("content_block_delta", event)

    def _close(self) -> bytes:
        """Closes the open block, if any; thinking is signed first."""
        if self._block is None:
            return b""
        signed = b""
        if self._block == "thinking":
            signed = self._delta({"type": "signature_delta", "signature": self._signature.text()})
        self._block = None
        stop = {"type": "content_block_stop", "index": self._index}
        return signed + encode_event("content_block_stop", stop)
