"""What a request has cost its key: as its engine counted it, about where it did not.

A client may leave before its answer ends, an engine may fail, a server may not count: what was computed until then is
told by what passed, so that leaving early is no way around a quota.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway.keys.charge import BYTES_PER_TOKEN
from shared.events import Event, Progress, ReasoningDelta, Relayed, TextDelta, ToolCallDelta, Usage, known


class Spent:
    """Of all answers to one request. `answers` is how many there are to be, `prompt_bytes` the length of its text."""

    def __init__(self) -> None:
        self.answers = 1
        self.prompt_bytes = 0
        self._first_done: int | None = None  # tokens of the prompt, as the first and the last progress said
        self._last_done = 0
        self._events = 0
        self._bytes = 0

    def note(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Progress(phase="prefill", done_tokens=done):
                    self._first_done = done if self._first_done is None else self._first_done
                    self._last_done = max(self._last_done, done)
                case TextDelta(text=text) | ReasoningDelta(text=text) | ToolCallDelta(arguments=text):
                    self._say(len(text))
                case Relayed():  # mostly of what is around its text
                    self._say(0)

    def _say(self, length: int) -> None:
        self._events += 1
        self._bytes += length

    def usage(self, counted: Usage, *, ended: int) -> Usage:
        """`counted` is what was told of it, `ended` how many of the answers have ended."""
        input_tokens, output_tokens = counted.input_tokens, counted.output_tokens
        if input_tokens is None:
            input_tokens = self.prompt_bytes // BYTES_PER_TOKEN
        elif not input_tokens and self._first_done is not None:
            input_tokens = self._last_done - self._first_done
        if output_tokens is None or ended < self.answers:
            output_tokens = max(known(output_tokens), self._events, self._bytes // BYTES_PER_TOKEN)
        return replace(counted, input_tokens=input_tokens, output_tokens=output_tokens)
