"""The shape of a conversation in a few characters, and of an answer in a few numbers: what may be shown to anybody.

A message is the letter of its role (`s`ystem, `u`ser, `a`ssistant, `t`ool) and, in parentheses, what it holds besides
text: `r`easoning, `c`alls, results of `t`ools, `i`mages, `d`ocuments, `n`ames of deferred tools. `s u a(rc) t u` is a
system text, a user's, an answer that reasons and calls a tool, its result, and the user's again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from shared.events import (
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from shared.messages import (
    DocumentPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    ToolCallPart,
    ToolReferencePart,
    ToolResultPart,
)

MOST_SHOWN: Final = 40  # messages, the last ones
_LETTERS: Final[dict[type, str]] = {
    ReasoningPart: "r",
    ToolCallPart: "c",
    ImagePart: "i",
    DocumentPart: "d",
    ToolReferencePart: "n",
}


def shape_of(messages: Sequence[Message]) -> str:
    """Of the last messages; how many came before them stands first."""
    earlier = len(messages) - MOST_SHOWN
    head = [f"+{earlier}"] if earlier > 0 else []
    return " ".join([*head, *map(_message, messages[-MOST_SHOWN:])])


def _message(message: Message) -> str:
    held = dict.fromkeys(_letters(message.parts))
    if message.role == "tool":
        held.pop("t", None)
    return message.role[0] + (f"({''.join(held)})" if held else "")


def _letters(parts: Iterable[Part]) -> Iterable[str]:
    for part in parts:
        if isinstance(part, ToolResultPart):
            yield "t"
            yield from _letters(part.parts)
        elif type(part) in _LETTERS:
            yield _LETTERS[type(part)]


class AnswerShape:
    """Counts what an answer holds; with `keeps_text` it also has the words and the calls."""

    def __init__(self, *, keeps_text: bool) -> None:
        self._keeps_text = keeps_text
        self._counts = {"text_characters": 0, "reasoning_characters": 0, "argument_characters": 0}
        self._calls: list[str] = []
        self._texts: dict[str, list[str]] = {"text": [], "reasoning": [], "arguments": []}
        self._end: dict[str, Any] = {}

    def note(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case TextDelta(text=text):
                    self._said("text", "text_characters", text)
                case ReasoningDelta(text=text):
                    self._said("reasoning", "reasoning_characters", text)
                case ToolCallStarted(name=name):
                    self._calls.append(name)
                case ToolCallDelta(arguments=text):
                    self._said("arguments", "argument_characters", text)
                case ToolCallFinished():
                    self._texts["arguments"].append("\n")
                case Finished(reason=reason):
                    self._end = {"finish": reason}
                case Failed(code=code, message=message):
                    self._end = {"error": code, "message": message}

    def _said(self, kind: str, count: str, text: str) -> None:
        self._counts[count] += len(text)
        if self._keeps_text:
            self._texts[kind].append(text)

    def told(self) -> dict[str, Any]:
        """Names of tools are the client's words, too: they are told with the text alone."""
        said: dict[str, Any] = {**self._end, **{name: count for name, count in self._counts.items() if count}}
        if self._calls:
            said["calls"] = self._calls if self._keeps_text else len(self._calls)
        if self._keeps_text:
            said |= {name: "".join(parts) for name, parts in self._texts.items() if "".join(parts).strip()}
        return said
