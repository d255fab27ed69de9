"""Events -> the API's chunks, and whole answers -> its completion. Both say the same.

A chunk has the shape of the whole answer. Waiting is shown by chunks without text, which every client parses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.dialects.base import RenderContext
from gateway.dialects.openai.errors import render_body
from gateway.dialects.openai.usage import render_usage
from gateway.dialects.openai_completions.schema import FINISH_REASONS
from gateway.dialects.openai_completions.tokens import TokenTable
from gateway.dialects.sse import DONE, encode_data
from shared.events import (
    Completion,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    Usage,
    known,
    total_usage,
)
from shared.messages import ReasoningPart, TextPart


def _frame(context: RenderContext) -> dict[str, Any]:
    frame = {
        "id": f"cmpl-{context.request_id}",
        "object": "text_completion",
        "created": context.created_s,
        "model": context.model,
    }
    return frame | {"system_fingerprint": context.fingerprint} if context.fingerprint else frame


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionsReply:
    """How a request wants its answer: `choices` for each of its `prompts`, which are said again before them where
    `echo` holds their texts. More may have been generated; then the likeliest are given."""

    include_usage: bool = False
    logprobs: bool = False
    echo: tuple[str, ...] = ()
    prompts: int = 1
    choices: int = 1

    def stream(self, context: RenderContext) -> CompletionStream:
        return CompletionStream(self, context)

    def echoed(self, choice: int) -> str:
        """What stands before the text of a choice."""
        return self.echo[choice // self.choices] if self.echo else ""

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        each = max(1, len(completions) // self.prompts)
        groups = [completions[start : start + each] for start in range(0, len(completions), each)]
        chosen = [completion for group in groups for completion in _best(group, self.choices)]
        choices = [self._choice(completion, index) for index, completion in enumerate(chosen)]
        usage = _sum([total_usage([completion.usage for completion in group]) for group in groups])
        return _frame(context) | {"choices": choices, "usage": render_usage(usage)}

    def _choice(self, completion: Completion, index: int) -> dict[str, Any]:
        text = "".join(part.text for part in completion.parts if isinstance(part, TextPart | ReasoningPart))
        return {
            "text": self.echoed(index) + text,
            "index": index,
            "logprobs": TokenTable().add(completion.logprobs) if self.logprobs else None,
            "finish_reason": FINISH_REASONS[completion.reason],
        }


def _best(group: Sequence[Completion], count: int) -> list[Completion]:
    """Those with the highest log probability per token, the likeliest first."""
    if len(group) == count:
        return list(group)
    return sorted(group, key=_likelihood, reverse=True)[:count]


def _likelihood(completion: Completion) -> float:
    logprobs = completion.logprobs
    return sum(item.logprob for item in logprobs) / len(logprobs) if logprobs else 0.0


def _sum(usages: Sequence[Usage]) -> Usage:
    """Of answers to several prompts."""
    total = total_usage(usages)
    return replace(
        total,
        input_tokens=sum(known(usage.input_tokens) for usage in usages),
        cached_tokens=sum(known(usage.cached_tokens) for usage in usages),
    )


class CompletionStream:
    """Renders the answers to one request. `start` may come before or after the first `feed`."""

    def __init__(self, reply: CompletionsReply, context: RenderContext) -> None:
        self._reply = reply
        self._context = context
        self._begun: set[int] = set()
        self._tables = [TokenTable() for _ in range(context.choices)]
        self._usages: dict[int, Usage] = {}
        self._has_started = False

    def start(self) -> bytes:
        if self._has_started:
            return b""
        self._has_started = True
        return b"".join([self._chunk(choice, self._reply.echoed(choice)) for choice in range(self._context.choices)])

    def keepalive(self, silent_s: float) -> bytes:
        waiting = next((c for c in range(self._context.choices) if c not in self._usages), None)
        return self.start() or (b"" if waiting is None else self._chunk(waiting, ""))

    def feed(self, event: Event, choice: int = 0) -> bytes:
        if isinstance(event, Failed):
            return encode_data(render_body(event.error()))
        return self.start() + self._feed_content(event, choice)

    def _feed_content(self, event: Event, choice: int) -> bytes:
        match event:
            case ReasoningDelta(text=text):
                return self._chunk(choice, text) if text else b""
            case TextDelta():
                return self._text(event, choice)
            case Finished():
                return self._finish(event, choice)
        return b""

    def _text(self, event: TextDelta, choice: int) -> bytes:
        logprobs = event.logprobs if self._reply.logprobs else ()
        if not event.text and not logprobs:
            return b""
        return self._chunk(choice, event.text, logprobs=self._tables[choice].add(logprobs) if logprobs else None)

    def _finish(self, event: Finished, choice: int) -> bytes:
        self._usages[choice] = event.usage
        data = self._chunk(choice, "", finish_reason=FINISH_REASONS[event.reason])
        return data + self._end() if len(self._usages) == self._context.choices else data

    def _end(self) -> bytes:
        if not self._reply.include_usage:
            return DONE
        ordered = [self._usages[choice] for choice in range(self._context.choices)]
        each = self._reply.choices
        usage = _sum([total_usage(ordered[start : start + each]) for start in range(0, len(ordered), each)])
        return encode_data(_frame(self._context) | {"choices": [], "usage": render_usage(usage)}) + DONE

    def _chunk(
        self, choice: int, text: str, *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> bytes:
        said = {"text": text, "index": choice, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = _frame(self._context) | {"choices": [said]}
        return encode_data(chunk | {"usage": None} if self._reply.include_usage else chunk)
