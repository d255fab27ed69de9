"""Events -> the vendor's chunks, and a whole answer -> the vendor's completion. Both say the same.

Every `data:` line is JSON that the SDKs take for a chunk, and several clients count only what they parse as a sign of
life (Qwen Code gives up after 240 s of comments), so waiting is shown by chunks without content. After a failure in
mid-stream comes the error and no `[DONE]`: nothing may look like a normal end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.dialects.base import RenderContext
from gateway.dialects.openai.errors import render_body
from gateway.dialects.openai.logprobs import render_logprobs
from gateway.dialects.openai.usage import render_usage
from gateway.dialects.openai_chat.schema import COMPLETION_PREFIX, FINISH_REASONS
from gateway.dialects.sse import DONE, encode_data
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
    assemble,
    total_usage,
)
from shared.messages import ReasoningPart, TextPart, ToolCallPart


def completion_id(context: RenderContext) -> str:
    return COMPLETION_PREFIX + context.request_id


def _finish_reason(reason: FinishReason, *, has_calls: bool, functions: bool) -> str:
    """Clients run tools only when told so, whatever made generation stop after a complete call."""
    finish = FINISH_REASONS["tool_calls" if has_calls and reason == "stop" else reason]
    return "function_call" if functions and finish == "tool_calls" else finish


def _logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": render_logprobs(logprobs), "refusal": None}


def _render_frame(context: RenderContext, kind: str) -> dict[str, Any]:
    frame = {"id": completion_id(context), "object": kind, "created": context.created_s, "model": context.model}
    return frame | {"system_fingerprint": context.fingerprint} if context.fingerprint else frame


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """How a request wants its answer. `functions`: its client knows only the API's first form of tools. `echoed` are
    fields that come back in the answer; one that is stored is put together from its stream, too."""

    include_usage: bool = False
    logprobs: bool = False
    functions: bool = False
    echoed: Mapping[str, Any] = field(default_factory=dict)
    is_stored: bool = False

    def stream(self, context: RenderContext) -> ChunkStream:
        return ChunkStream(self, context)

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        choices = [self._render_choice(completion, index) for index, completion in enumerate(completions)]
        usage = render_usage(total_usage([completion.usage for completion in completions]))
        return _render_frame(context, "chat.completion") | {"choices": choices, "usage": usage, **self.echoed}

    def _render_choice(self, completion: Completion, index: int) -> dict[str, Any]:
        calls = [part for part in completion.parts if isinstance(part, ToolCallPart)]
        return {
            "index": index,
            "message": _render_message(completion, calls, functions=self.functions),
            "logprobs": _logprobs(completion.logprobs) if self.logprobs else None,
            "finish_reason": _finish_reason(completion.reason, has_calls=bool(calls), functions=self.functions),
        }


def _render_message(completion: Completion, calls: Sequence[ToolCallPart], *, functions: bool) -> dict[str, Any]:
    text = "".join(part.text for part in completion.parts if isinstance(part, TextPart))
    reasoning = "".join(part.text for part in completion.parts if isinstance(part, ReasoningPart))
    message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls and functions:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


class ChunkStream:
    """Renders one answer. `start` may come before or after the first `feed`; whichever is first sends the role."""

    def __init__(self, reply: ChatReply, context: RenderContext) -> None:
        self._reply = reply
        self._context = context
        self._choices = [_ChoiceStream(reply, context, index) for index in range(context.choices)]
        self._usages: dict[int, Usage] = {}
        self._told: list[list[Event]] = [[] for _ in range(context.choices)]  # only of what is stored
        self.answer: dict[str, Any] | None = None  # once it has ended

    def start(self) -> bytes:
        return b"".join([choice.start() for choice in self._choices])

    def keepalive(self, silent_s: float) -> bytes:
        return next((choice.keepalive() for choice in self._choices if not choice.has_ended), b"")

    def feed(self, event: Event, choice: int = 0) -> bytes:
        if isinstance(event, Failed):
            return encode_data(render_body(event.error()))
        data = self._choices[choice].feed(event)
        if self._reply.is_stored:
            self._told[choice].append(event)
        if isinstance(event, Finished):
            self._usages[choice] = event.usage
            if len(self._usages) == len(self._choices):
                return data + self._end()
        return data

    def _end(self) -> bytes:
        if self._reply.is_stored:
            self.answer = self._reply.render([assemble(events) for events in self._told], self._context)
        if not self._reply.include_usage:
            return DONE
        usage = total_usage([self._usages[choice] for choice in range(len(self._choices))])
        frame = _render_frame(self._context, "chat.completion.chunk")
        return encode_data(frame | {"choices": [], "usage": render_usage(usage)}) + DONE


class _ChoiceStream:
    """The chunks of one choice."""

    def __init__(self, reply: ChatReply, context: RenderContext, index: int) -> None:
        self._reply = reply
        self._index = index
        self._frame = _render_frame(context, "chat.completion.chunk")
        self._tier = {name: value for name, value in reply.echoed.items() if name == "service_tier"}
        self._started = False
        self._has_text = False
        self._has_calls = False
        self.has_ended = False

    def start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        return self._chunk({"role": "assistant", "content": None})

    def keepalive(self) -> bytes:
        return self.start() or self._chunk({"content": ""})

    def feed(self, event: Event) -> bytes:
        if isinstance(event, Progress | Started):
            return self.start()
        return self.start() + self._feed_content(event)

    def _feed_content(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._text(event)
            case ReasoningDelta(text=text):
                return self._chunk({"reasoning_content": text}) if text else b""
            case ToolCallStarted():
                self._has_calls = True
                return self._call_started(event)
            case ToolCallDelta(index=index, arguments=arguments):
                return self._call_delta(index, {"arguments": arguments}) if arguments else b""
            case ToolCallFinished():
                return b""
            case Finished():
                return self._finish(event)
        raise TypeError(f"{type(event).__name__} is not content")

    def _text(self, event: TextDelta) -> bytes:
        logprobs = event.logprobs if self._reply.logprobs else ()
        if not event.text and not logprobs:
            return b""
        self._has_text = self._has_text or bool(event.text)
        return self._chunk({"content": event.text}, logprobs=_logprobs(logprobs) if logprobs else None)

    def _call_started(self, event: ToolCallStarted) -> bytes:
        function = {"name": event.name, "arguments": ""}
        if self._reply.functions:
            return self._call_delta(event.index, function)
        call = {"index": event.index, "id": event.id, "type": "function", "function": function}
        return self._chunk({"tool_calls": [call]})

    def _call_delta(self, index: int, function: dict[str, str]) -> bytes:
        if not self._reply.functions:
            return self._chunk({"tool_calls": [{"index": index, "function": function}]})
        return self._chunk({"function_call": function}) if index == 0 else b""

    def _finish(self, event: Finished) -> bytes:
        self.has_ended = True
        reason = _finish_reason(event.reason, has_calls=self._has_calls, functions=self._reply.functions)
        delta = {} if self._has_text or self._has_calls else {"content": ""}
        return self._chunk(delta, finish_reason=reason)

    def _chunk(
        self, delta: dict[str, Any], *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = self._frame | {"choices": [choice]} | self._tier
        if self._reply.include_usage:
            chunk["usage"] = None
        return encode_data(chunk)
