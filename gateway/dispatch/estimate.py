"""Token counts that an engine does not know, as clients and metrics are told them: estimated from texts' sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shared import wire
from shared.errors import WireError
from shared.events import Event, Finished, ReasoningDelta, Started, TextDelta, ToolCallDelta, Usage
from shared.request import GenerateRequest, PackedRequest

_BYTES_PER_TOKEN = 4


class Estimate:
    """Of one answer, whose events are noted from the first."""

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._text_bytes = self._reasoning_bytes = 0

    def note(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ReasoningDelta):
                self._reasoning_bytes += len(event.text.encode(errors="replace"))
            elif isinstance(event, TextDelta | ToolCallDelta):
                text = event.text if isinstance(event, TextDelta) else event.arguments
                self._text_bytes += len(text.encode(errors="replace"))

    def told(self, event: Event) -> Event:
        """The event with numbers for the counts that are unknown; of what was cached nothing is assumed."""
        if isinstance(event, Started | Finished) and _is_unknown(event.usage):
            return replace(event, usage=self._filled(event.usage, is_over=isinstance(event, Finished)))
        return event

    def _filled(self, usage: Usage, *, is_over: bool) -> Usage:
        said = _tokens(self._text_bytes + self._reasoning_bytes) if is_over else 0
        thought = _tokens(self._reasoning_bytes) if is_over else 0
        return replace(
            usage,
            input_tokens=_prompt_tokens(self._request) if usage.input_tokens is None else usage.input_tokens,
            output_tokens=said if usage.output_tokens is None else usage.output_tokens,
            reasoning_tokens=thought if usage.reasoning_tokens is None else usage.reasoning_tokens,
            cached_tokens=usage.cached_tokens or 0,
            restored_tokens=usage.restored_tokens or 0,
        )


def _is_unknown(usage: Usage) -> bool:
    return None in (
        usage.input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.cached_tokens,
        usage.restored_tokens,
    )


def _prompt_tokens(request: GenerateRequest) -> int:
    """By the conversation as it travels."""
    try:
        packed = request if isinstance(request, PackedRequest) else wire.pack(request)
    except WireError:
        return 1
    return _tokens(len(packed.packed.data) + len(request.raw_text))


def _tokens(size_bytes: int) -> int:
    return -(-size_bytes // _BYTES_PER_TOKEN)
