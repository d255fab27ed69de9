"""How a template ends an answer's turn, and where it shows the text beside a call: learnt from small conversations.

What ends a turn is written by the template, not by the model, so it belongs to the piece that follows an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidRequestError
from worker.prompt.encode import STAND_IN_ANSWER, STAND_IN_USER
from worker.prompt.markers import Markers
from worker.prompt.turns import NOTHING, Turns

_USER: dict[str, Any] = {"role": "user", "content": STAND_IN_USER}
_TEXT: dict[str, Any] = {"role": "assistant", "content": STAND_IN_ANSWER}
_NAME = "zztool"
_RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "call00000", "name": _NAME, "content": "."}
_FINAL: dict[str, Any] = {"role": "assistant", "content": "."}


class Closes:
    """`call_text`: the text beside a call stands before it, as models write it. Where a template shows it behind the
    call or its result, we put it where it was; where one leaves it out, so do we."""

    def __init__(self, turns: Turns, markers: Markers, *, text_arguments: bool, call_end: str | None) -> None:
        self._turns = turns
        self._markers = markers
        call = {"type": "function", "id": "call00000", "function": {"name": _NAME, "arguments": {}}}
        if text_arguments:
            call["function"] = {"name": _NAME, "arguments": "{}"}
        self._calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        self._text, self._call = self._learn_closes(call_end)
        self.call_text, self._call_begin = self._learn_place()

    def of(self, answer: Mapping[str, Any]) -> str:
        return self._call if "tool_calls" in answer else self._text

    def bare(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message without a text that would be misplaced."""
        return {**message, "content": ""} if self._call_begin and "tool_calls" in message else message

    def apart(self, answer: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The answer as the template is given it, and text that `together` puts where it belongs."""
        text = str(answer["content"])
        if not self._call_begin or "tool_calls" not in answer:
            return answer, ""
        return self.bare(answer), text

    def together(self, text: str, beside: str) -> str:
        at = text.find(self._call_begin) if beside else -1
        return text if at < 0 else text[:at] + beside + text[at:]

    def _body(self, *messages: dict[str, Any]) -> str | None:
        try:
            return self._turns.body(messages, NOTHING)
        except InvalidRequestError:
            return None

    def _learn_closes(self, call_end: str | None) -> tuple[str, str]:
        """What an answer of text and one that calls a tool end with: the same where they have an ending in common."""
        said, called = self._body(_USER, _TEXT), self._body(_USER, self._calling)
        text = said.rpartition(STAND_IN_ANSWER)[2] if said is not None and STAND_IN_ANSWER in said else said
        if text is None or called is None:
            close = text or ""
            return close, close
        if shared := self._markers.common_ending(text, called):
            return shared, shared
        if call_end and call_end in called:
            return text, called.rpartition(call_end)[2]
        return text, self._markers.last(called)

    def _learn_place(self) -> tuple[bool, str]:
        """Whether text stands before a call, and stays; else, where it is misplaced, the marker that begins a call."""
        calling = {**self._calling, "content": STAND_IN_ANSWER}
        beside, alone = self._body(_USER, calling), self._body(_USER, self._calling)
        later = self._body(_USER, calling, _RESULT, _FINAL)
        if later is not None and STAND_IN_ANSWER not in later:
            return False, ""
        if beside is None or alone is None or STAND_IN_ANSWER not in beside:
            return False, ""
        if beside.index(STAND_IN_ANSWER) < beside.rfind(_NAME):
            return True, ""
        asked = self._body(_USER) or ""
        said = self._body(_USER, _TEXT) or ""
        begin = alone[len(asked) :] if alone.startswith(asked) else ""
        return False, self._markers.first(begin[self._markers.common(begin, said[len(asked) :]) :])
