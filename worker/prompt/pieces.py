"""The text a conversation's next unit adds to the prompt, rendered without the history before it.

A prompt is the head with the first unit, and then for every further answer and unit

    header  answer  piece            header: `<|im_start|>assistant\\n`, and `<think>\\n` where the template opens it
                                     answer: what the model generated
                                     piece:  the end of the answer's turn, and the user's turn or tool results

Each is rendered in a small conversation made of the few units before it, by the difference of two renderings. So a
turn's cost does not depend on the history, a template that drops earlier reasoning cannot change what was computed,
and a prompt is a prefix of the next one by construction. Whether a template's output is local in this sense is
verified against whole renderings; one that is not is rendered whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidRequestError
from worker.formats.harmony import CALL, END, HEADER
from worker.prompt.conversation import Conversation, Unit
from worker.prompt.encode import STAND_IN_ANSWER, STAND_IN_OTHER, STAND_IN_USER
from worker.prompt.sequences import common_length
from worker.prompt.template import Template, ToolDict
from worker.prompt.thoughts import Thoughts

_ANSWER = STAND_IN_ANSWER
_DUMMY_USER: dict[str, Any] = {"role": "user", "content": STAND_IN_USER}
_DUMMY_ANSWER: dict[str, Any] = {"role": "assistant", "content": "."}
# Units before the one in question that its rendering may depend on.
WINDOW_UNITS = 4
_ENDING_CHARS = 200
_REMINDER_OPEN, _REMINDER_CLOSE = "<system-reminder>", "</system-reminder>"


class NotLocalError(Exception):
    """The template renders a unit differently in a small conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What every rendering of one request shares."""

    tools: Sequence[ToolDict]
    switches: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`text` of a unit, and the generation `header` that follows it."""

    text: str
    header: str


class PieceRenderer:
    """`close` is what ends an answer's turn (empty in harmony, where it depends on the answer). `tools_in_head`: only
    the first piece is rendered with tools. Either the others are the same without them, which saves time, or the
    template shows tools at the last user message, which would change the prompt's middle with every turn.

    `window` bounds the units rendered before each one; None renders the whole history, for a template whose output
    depends on it but only grows with it.
    """

    def __init__(
        self,
        template: Template,
        thoughts: Thoughts | None,
        *,
        text_arguments: bool,
        window: int | None,
        harmony: bool = False,
    ) -> None:
        self._template = template
        self._thoughts = thoughts
        self._window_units = window
        self.tools_in_head = False
        self._harmony = harmony
        self.close = "" if harmony else self._learn_close(text_arguments)
        self._call_close = CALL if harmony and self._ends_calls() else END

    def _render(self, dicts: Sequence[dict[str, Any]], scene: Scene, *, header: bool = False) -> str:
        if self._harmony and not header and dicts[-1]["role"] == "assistant":
            # Without the header an answer that is the last message would end otherwise than one that others follow.
            return self._template.render(dicts, scene.tools, scene.switches, header=True).removesuffix(HEADER)
        return self._template.render(dicts, scene.tools, scene.switches, header=header)

    def _close_of(self, answer: Mapping[str, Any]) -> str:
        if not self._harmony:
            return self.close
        return self._call_close if "tool_calls" in answer else END

    def _ends_calls(self) -> bool:
        """Whether a call ends with a token of its own."""
        call = {"type": "function", "id": "call00000", "function": {"name": "zztool", "arguments": {}}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        try:
            return self._render([_DUMMY_USER, answer], Scene(tools=(), switches={})).endswith(CALL)
        except InvalidRequestError:
            return True

    def _learn_close(self, text_arguments: bool) -> str:
        """What an answer of text and one that calls a tool end with alike."""
        arguments = "{}" if text_arguments else {}
        call = {"type": "function", "id": "call00000", "function": {"name": "zztool", "arguments": arguments}}
        answer = {"role": "assistant", "content": _ANSWER}
        scene = Scene(tools=(), switches={})
        tails = []
        for message in (answer, {**answer, "tool_calls": [call]}):
            try:
                text = self._render([_DUMMY_USER, message], scene)
            except InvalidRequestError:
                continue
            tails.append(text.rpartition(_ANSWER)[2] if _ANSWER in text else text)
        shared = common_length(tails[0][::-1], tails[-1][::-1]) if tails else 0
        return tails[0][len(tails[0]) - shared :] if tails else ""

    def head_variants(self, conversation: Conversation, scene: Scene) -> list[str]:
        """The head with two different first messages: what they share belongs to the head."""
        return [self._render(conversation.beginning(text), scene) for text in (STAND_IN_USER, STAND_IN_OTHER)]

    def first(self, conversation: Conversation, scene: Scene) -> Piece:
        """The head and the first unit."""
        dicts = [*conversation.system, *conversation.units[0].dicts]
        text = self._render(dicts, scene)
        return Piece(text=text, header=_added(text, self._render(dicts, scene, header=True)))

    def next(self, conversation: Conversation, index: int, scene: Scene) -> Piece:
        """A user unit or tool results, at an index of at least 1. Raises `NotLocalError`."""
        units = conversation.units
        scene = self._later(scene)
        before = self._window(conversation, index)
        after = [*before, *units[index].dicts]
        short, long = self._render(before, scene), self._render(after, scene)
        header = _added(long, self._render(after, scene, header=True))
        if units[index - 1].kind != "assistant":
            return Piece(text=_added(short, long), header=header)
        if _ANSWER in short and _ANSWER in long:
            # Compared from the answer on: a template may render an answer differently while it is the last message.
            short, long = short.rpartition(_ANSWER)[2], long.rpartition(_ANSWER)[2]
        close = self._close_of(before[-1])
        if not short.endswith(close):
            raise NotLocalError
        return Piece(text=close + _added(short, long), header=header)

    def answer(self, conversation: Conversation, index: int, scene: Scene, header: str = "") -> str:
        """Header and text of an answer, the unit at `index`, as the template writes it while it is the last message.
        `header` is the generation header it followed."""
        scene = self._later(scene)
        units = conversation.units
        before = self._up_to(conversation, index)
        text = _added(self._render(before, scene), self._render([*before, *units[index].dicts], scene))
        close = self._close_of(units[index].dicts[0])
        if not text.endswith(close):
            raise NotLocalError
        text = text[: len(text) - len(close)]
        if self._thoughts is None:
            return text
        return self._thoughts.restored(text, header, units[index].dicts[0].get("reasoning_content", "").strip())

    def after_answer(self, conversation: Conversation, index: int, scene: Scene) -> str:
        """End of an answer's turn and header of another, when nothing came between."""
        scene = self._later(scene)
        dicts = [*self._up_to(conversation, index), *conversation.units[index].dicts]
        close = self._close_of(dicts[-1])
        return close + _added(self._render(dicts, scene), self._render(dicts, scene, header=True))

    def _later(self, scene: Scene) -> Scene:
        return Scene(tools=(), switches=scene.switches) if self.tools_in_head and scene.tools else scene

    def _up_to(self, conversation: Conversation, index: int) -> list[dict[str, Any]]:
        """A small conversation up to an answer: the one in which the header before it was rendered."""
        if index > 1:
            before = self._window(conversation, index - 1)
        else:
            before = list(conversation.system) if self._window_units is None else []
        return [*before, *conversation.units[index - 1].dicts]

    def _window(self, conversation: Conversation, index: int) -> list[dict[str, Any]]:
        """A small conversation that ends just before `units[index]`: back to the last user message with words of the
        user's own, or a few units and that message. Answers are stand-ins, without reasoning."""
        units = conversation.units
        if self._window_units is None:
            return [*conversation.system, *(message for unit in units[:index] for message in unit.dicts)]
        start = index
        while start > 0 and index - start < self._window_units:
            start -= 1
            if _has_own_words(units[start]):
                break
        if units[start].kind == "tool" and start > 0:
            start -= 1
        dicts: list[dict[str, Any]] = []
        if units[start].kind != "user" or not _has_own_words(units[start]):
            dicts.extend(self._anchor(units, start))
        for position in range(start, index):
            dicts.extend(_stand_in(unit_dict) for unit_dict in units[position].dicts)
        if units[index - 1].kind == "assistant":
            dicts[-1]["content"] = _ANSWER
        if self._harmony:
            # Text beside a call is reasoning to the template, shown until a final message follows.
            dicts = [{**item, "content": ""} if "tool_calls" in item else item for item in dicts]
        return dicts

    def _anchor(self, units: Sequence[Unit], start: int) -> Sequence[dict[str, Any]]:
        """What a window that does not begin with the user's own words is preceded by."""
        user = next((unit.dicts for unit in reversed(units[:start]) if _has_own_words(unit)), None)
        if units[start].kind != "user":
            return user or (_DUMMY_USER,)
        return (*user, _DUMMY_ANSWER) if user else ()


def _stand_in(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] != "assistant":
        return message
    kept = {"role": "assistant", "content": "."}
    if "tool_calls" in message:
        kept["tool_calls"] = message["tool_calls"]
    return kept


def _has_own_words(unit: Unit) -> bool:
    """Whether it is a user message that says something besides reminders that the client put there."""
    if unit.kind != "user":
        return False
    if unit.has_images:
        return True
    text = str(unit.dicts[-1]["content"])
    while _REMINDER_OPEN in text:
        before, _, rest = text.partition(_REMINDER_OPEN)
        if before.strip():
            return True
        text = rest.partition(_REMINDER_CLOSE)[2]
    return bool(text.strip())


def ending(text: str, body: str, unit: Unit) -> str:
    """What a prompt ends with after the last message's content: the generation header, or (for templates that always
    write one) the end of that message's own text."""
    if text.startswith(body) and len(text) > len(body):
        return text[len(body) :]
    content = "" if unit.has_images else str(unit.dicts[-1].get("content", "")).strip()
    return text.rpartition(content)[2] if content else text[-_ENDING_CHARS:]


def _added(short: str, long: str) -> str:
    if not long.startswith(short):
        raise NotLocalError
    return long[len(short) :]
