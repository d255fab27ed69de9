"""Reasoning in earlier answers, which many templates leave out: put back in the form in which the model wrote it.

Leaving it out would change what the prefix cache holds, and the model would no longer see why it did what it did.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shared.errors import InvalidRequestError
from shared.request import ReasoningOptions
from worker.formats.reasoning import Reasoning
from worker.prompt.markers import Markers
from worker.prompt.switches import Switches
from worker.prompt.template import Template

_REASONING, _TEXT = "zzthought", "zzanswer"
_USER: dict[str, Any] = {"role": "user", "content": "zzuser"}


class Thoughts:
    """`family` is how the model marks its reasoning."""

    def __init__(self, template: Template, switches: Switches, family: Reasoning, markers: Markers) -> None:
        self._template = template
        self._markers = markers
        self._family = family
        self._start, self._end = start, end = family.start, family.end
        self._empty = re.compile(rf"\s*{re.escape(start)}\s*{re.escape(end)}\s*")
        self._unopened_end = re.compile(rf"\A\s*{re.escape(end)}\s*")
        self._switches = switches.of(ReasoningOptions(enabled=True))
        self._open, self._close = self._learn_form()
        self._is_last_only = self._learn_empty()

    def _render(self, *messages: Mapping[str, Any], thinking: bool = False, header: bool = False) -> str:
        try:
            return self._template.render(messages, (), self._switches if thinking else {}, header=header)
        except InvalidRequestError:
            return ""

    def _learn_form(self) -> tuple[str, str]:
        """What stands around reasoning where the template shows it; else in the form of a header that opens it."""
        arguments = {"zzkey": "zzvalue"}
        call = {"type": "function", "id": "call00000", "function": {"name": "zztool", "arguments": arguments}}
        answer = {
            "role": "assistant",
            "content": _TEXT,
            "reasoning_content": _REASONING,
            "reasoning": _REASONING,
            "thinking": _REASONING,
        }
        for thinking in (False, True):
            for shown in (answer, {**answer, "tool_calls": [call]}):
                before, found, after = self._render(_USER, shown, thinking=thinking).partition(_REASONING)
                if found and self._start in before and self._end in after:
                    ended = after.index(self._end) + len(self._end)
                    ended += len(self._family.gap) if after.startswith(self._family.gap, ended) else 0
                    space = len(after) - len(after[ended:].lstrip())
                    return before[before.rindex(self._start) :], after[:space]
        header = self._render(_USER, thinking=True, header=True)
        if self.opens(header) and not header.endswith("\n"):
            return header[header.rindex(self._start) :], self._end
        return self._written(), self._written(end=True)

    def _written(self, *, end: bool = False) -> str:
        """What stands around reasoning in the form of the family."""
        frame = self._family.frame
        return f"{frame}{self._end}{self._family.gap}" if end else f"{self._start}{frame}"

    def _learn_empty(self) -> bool:
        """Whether an empty reasoning block stands before an answer without any only while it is the last message."""
        answer = {"role": "assistant", "content": _TEXT}
        return self._start in self._render(_USER, answer) and self._start not in self._render(_USER, answer, _USER)

    def opens(self, header: str) -> bool:
        """Whether a generation header leaves a reasoning block open."""
        return header.rfind(self._start) > header.rfind(self._end)

    def begun(self, reasoning: str, text: str, *, opened: bool) -> str:
        """The beginning of an answer that a client wrote; `opened` when the header opened the reasoning block."""
        if reasoning:
            return ("" if opened else self._open) + reasoning + self._close + self._wrapped(text)
        return self._written(end=True) + self._wrapped(text) if opened else self._wrapped(text)

    def _wrapped(self, text: str) -> str:
        return f"{self._family.answer_start}{text}" if self._family.wraps_always and text else text

    def restored(self, text: str, header: str, reasoning: str) -> str:
        """An answer with its header, as the template rendered it, as it was when it was generated after `header`."""
        if reasoning:
            return self._with(text, header, reasoning)
        if text.startswith(header):
            return self._without_empty(text, len(header)) if self._is_last_only else text
        # A header that ends with an empty block belongs to the answer, though the template later leaves it out.
        begins = header.rfind(self._start)
        if begins >= 0 and self._empty.fullmatch(header, begins) and text.startswith(header[:begins]):
            return header + self._unopened_end.sub("", self._without_empty(text, begins)[begins:], count=1)
        return text

    def _with(self, text: str, header: str, reasoning: str) -> str:
        opens = self.opens(header)
        if reasoning in text:
            is_behind = text.startswith(header) or not opens
            return text if is_behind else header + text[text.index(reasoning) :]
        at = self._markers.common(text, header)
        if not opens and self._start not in header[at:]:
            text, at = behind_header(text, header, self._markers), len(header)
        rest = self._without_empty(text, at)[at:]
        if match := self._unopened_end.match(rest):
            rest = rest[match.end() :]
        before = header if opens else text[:at] + self._open
        return before + reasoning + self._close + rest

    def _without_empty(self, text: str, at: int) -> str:
        match = self._empty.match(text, at)
        return text if match is None else text[:at] + text[match.end() :]


def behind_header(text: str, header: str, markers: Markers) -> str:
    """An answer with its header behind the one it was generated after, of which the template later shows less."""
    if text.startswith(header):
        return text
    at = markers.common(text, header)
    left, rest = header[at:], text[at:]
    shown = next((length for length in range(min(len(left), len(rest)), 0, -1) if left.endswith(rest[:length])), 0)
    return header + rest[shown:]


def without_ending(tokens: Sequence[int], ending: Sequence[int]) -> Sequence[int]:
    """Generated tokens less an ending that the next piece of the prompt begins with."""
    length = len(ending)
    return tokens[:-length] if length and tuple(tokens[-length:]) == tuple(ending) else tokens
