"""Events -> the vendor's stream, and a whole answer -> the vendor's response. Both say the same.

Stream: response.created, response.in_progress, the events of each item, then one of response.completed, .incomplete and
.failed, with rising numbers. Codex counts only events that it parses as a sign of life (it gives up after 300 s of
comments), and reads a failure in `response.failed` alone, so waiting repeats response.in_progress and there is no bare
error event.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.dialects.base import RenderContext
from gateway.dialects.openai_responses.output import (
    CallItem,
    CompactionItem,
    Item,
    MessageItem,
    Payload,
    ReasoningItem,
    ReasoningStyle,
    Status,
)
from gateway.dialects.openai_responses.schema import FAILURES, INCOMPLETE, SERVER_ERROR
from gateway.dialects.openai_responses.tools import Origin
from gateway.dialects.retries import wait_s
from gateway.dialects.sse import encode_event
from shared.errors import GatewayError
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
    TokenLogprob,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
    known,
)
from shared.messages import Part, ReasoningPart, TextPart, ToolCallPart

_PREFIXES = {"function": "fc", "custom": "ctc", "tool_search": "tsc"}


def response_id(context: RenderContext) -> str:
    return f"resp_{context.request_id}"


def render_usage(usage: Usage) -> dict[str, Any]:
    """Nothing is billed for writing a cache."""
    return {
        "input_tokens": known(usage.input_tokens),
        "input_tokens_details": {"cached_tokens": known(usage.cached_tokens), "cache_write_tokens": 0},
        "output_tokens": known(usage.output_tokens),
        "output_tokens_details": {"reasoning_tokens": known(usage.reasoning_tokens)},
        "total_tokens": known(usage.input_tokens) + known(usage.output_tokens),
    }


def render_failure(error: GatewayError) -> dict[str, str]:
    """A code that clients act on; where they shall wait, the message says how long, in the words that Codex reads."""
    hint = f" Please try again in {max(1, math.ceil(wait_s(error)))}s." if error.retryable else ""
    return {"code": FAILURES.get(error.code, SERVER_ERROR), "message": error.message + hint}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesReply:
    """How a request wants its answer. `echo` is what the answer repeats of the request. `origins` are the client's
    words for the tools, by the model's. `is_summary`: the answer is one compaction item. `shows_summary`: reasoning
    stands in summaries; `wraps_reasoning`: also wrapped, to be sent back."""

    echo: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    is_summary: bool = False
    shows_summary: bool = False
    wraps_reasoning: bool = False
    logprobs: bool = False

    def stream(self, context: RenderContext) -> ResponseStream:
        return ResponseStream(self, context)

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        """This API has one choice."""
        (completion,) = completions
        output = [item.render(_status(item)) for item in self._items(completion, context)]
        if output and completion.reason in INCOMPLETE and output[-1]["type"] in ("message", "reasoning"):
            output[-1]["status"] = "incomplete"
        return self.ended(context, output, completion.reason, completion.usage)

    def frame(self, context: RenderContext, status: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": response_id(context),
            "object": "response",
            "created_at": context.created_s,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": context.model,
            "output": [],
            "usage": None,
            **self.echo,
            **fields,
        }

    def ended(
        self, context: RenderContext, output: list[dict[str, Any]], reason: FinishReason, usage: Usage
    ) -> dict[str, Any]:
        why = INCOMPLETE.get(reason)
        details = {"reason": why} if why else None
        status = "incomplete" if why else "completed"
        shown = render_usage(usage)
        return self.frame(context, status, output=output, incomplete_details=details, usage=shown)

    def message(self, context: RenderContext, index: int) -> MessageItem:
        return MessageItem(id=f"msg_{context.request_id}_{index}")

    def reasoning(self, context: RenderContext, index: int) -> ReasoningItem:
        style = ReasoningStyle(shows_summary=self.shows_summary, wraps=self.wraps_reasoning)
        return ReasoningItem(id=f"rs_{context.request_id}_{index}", style=style)

    def call(self, context: RenderContext, index: int, call_id: str, name: str) -> CallItem:
        origin = self.origins.get(name) or Origin(name=name)
        item_id = f"{_PREFIXES[origin.kind]}_{context.request_id}_{index}"
        return CallItem(id=item_id, call_id=call_id, origin=origin)

    def compaction(self, context: RenderContext) -> CompactionItem:
        return CompactionItem(id=f"cmp_{context.request_id}_0")

    def _items(self, completion: Completion, context: RenderContext) -> list[Item]:
        if self.is_summary:
            text = "".join(part.text for part in completion.parts if isinstance(part, TextPart))
            return [replace(self.compaction(context), text=text)]
        logprobs = _LogprobsByText(completion.logprobs if self.logprobs else ())
        return [self._item(part, index, context, logprobs) for index, part in enumerate(completion.parts)]

    def _item(self, part: Part, index: int, context: RenderContext, logprobs: _LogprobsByText) -> Item:
        match part:
            case TextPart(text=text):
                return replace(self.message(context, index), text=text, logprobs=logprobs.take(text))
            case ReasoningPart(text=text):
                return replace(self.reasoning(context, index), text=text)
            case ToolCallPart():
                return replace(self.call(context, index, part.id, part.name), arguments=part.arguments)
        raise TypeError(f"{type(part).__name__} is no part of an answer")


def _status(item: Item) -> Status:
    """Of an item that is closed: a call that was cut is not whole, whatever came after it."""
    return "incomplete" if isinstance(item, CallItem) and not item.is_whole else "completed"


class _LogprobsByText:
    """Hands each text of an answer the log probabilities of its own tokens, which are known in one row."""

    def __init__(self, logprobs: Sequence[TokenLogprob]) -> None:
        self._left = list(logprobs)

    def take(self, text: str) -> tuple[TokenLogprob, ...]:
        taken: list[TokenLogprob] = []
        size, wanted = 0, len(text.encode())
        while self._left and size < wanted:
            taken.append(self._left.pop(0))
            size += len(taken[-1].token_bytes or taken[-1].token.encode())
        return tuple(taken)


class ResponseStream:
    """Renders one answer. `start` may come before or after the first `feed`; whichever is first opens the stream."""

    def __init__(self, reply: ResponsesReply, context: RenderContext) -> None:
        self._reply = reply
        self._context = context
        self._number = 0
        self._started = False
        self._ended = False
        self.answer: dict[str, Any] | None = None  # the whole one, once it has ended well
        self._item: Item | None = None
        self._output: list[dict[str, Any]] = []

    def start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        return self._tell("response.created") + self._tell("response.in_progress")

    def keepalive(self, silent_s: float) -> bytes:
        if self._ended:
            return b""
        return self.start() or self._tell("response.in_progress")

    def feed(self, event: Event, choice: int = 0) -> bytes:
        opening = self.start()
        match event:
            case Progress() | Started():
                return opening
            case Failed():
                return opening + self._fail(event.error())
            case Finished():
                return opening + self._finish(event)
        return opening + (self._summarise(event) if self._reply.is_summary else self._feed_content(event))

    def _feed_content(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._text(event)
            case ReasoningDelta(text=text):
                return self._reasoning(text) if text else b""
            case ToolCallStarted(id=call_id, name=name):
                closing = self._close()
                return closing + self._open(self._reply.call(self._context, len(self._output), call_id, name))
            case ToolCallDelta(arguments=arguments):
                assert isinstance(self._item, CallItem)
                return self._events(self._item.add(arguments))
            case ToolCallFinished():
                return self._close()
        raise TypeError(f"{type(event).__name__} is not content")

    def _text(self, event: TextDelta) -> bytes:
        logprobs = event.logprobs if self._reply.logprobs else ()
        item = self._item if isinstance(self._item, MessageItem) else None
        if not event.text and (item is None or not logprobs):
            return b""
        opening = b""
        if item is None:
            opening = self._close()
            item = self._reply.message(self._context, len(self._output))
            opening += self._open(item)
        return opening + self._events(item.add(event.text, logprobs))

    def _reasoning(self, text: str) -> bytes:
        item, opening = self._item, b""
        if not isinstance(item, ReasoningItem):
            opening = self._close()
            item = self._reply.reasoning(self._context, len(self._output))
            opening += self._open(item)
        return opening + self._events(item.add(text))

    def _summarise(self, event: Event) -> bytes:
        """Text alone, and nothing of it before its end."""
        opening = b""
        item = self._item
        if not isinstance(item, CompactionItem):
            item = self._reply.compaction(self._context)
            opening = self._open(item)
        if isinstance(event, TextDelta):
            item.text += event.text
        return opening

    def _open(self, item: Item) -> bytes:
        self._item = item
        return self._events(item.open())

    def _close(self, status: Status | None = None) -> bytes:
        """Closes the open item, if any."""
        item = self._item
        if item is None:
            return b""
        status = status or _status(item)
        data = self._events(item.close(status))
        rendered = item.render(status)
        data += self._events([("response.output_item.done", {"item": rendered})])
        self._item = None
        self._output.append(rendered)
        return data

    def _finish(self, event: Finished) -> bytes:
        self._ended = True
        opening = self._summarise(event) if self._reply.is_summary else b""
        data = opening + self._close("incomplete" if event.reason in INCOMPLETE else None)
        ended = self._reply.ended(self._context, self._output, event.reason, event.usage)
        self.answer = ended
        return data + self._number_event(f"response.{ended['status']}", {"response": ended})

    def _fail(self, error: GatewayError) -> bytes:
        """Items that are whole stay: a client that has run a call of theirs does not run it again."""
        self._ended = True
        failed = self._reply.frame(self._context, "failed", output=self._output, error=render_failure(error))
        return self._number_event("response.failed", {"response": failed})

    def _tell(self, kind: str) -> bytes:
        frame = self._reply.frame(self._context, "in_progress", output=self._output)
        return self._number_event(kind, {"response": frame})

    def _events(self, payloads: Iterable[Payload]) -> bytes:
        at = {"output_index": len(self._output)}
        return b"".join([self._number_event(kind, at | fields) for kind, fields in payloads])

    def _number_event(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        number, self._number = self._number, self._number + 1
        return encode_event(kind, {"type": kind, "sequence_number": number, **fields})
