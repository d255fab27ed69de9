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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from worker.prompt import numbers
from worker.prompt.closes import Closes
from worker.prompt.conversation import Conversation
from worker.prompt.encode import STAND_IN_OTHER, STAND_IN_USER
from worker.prompt.growth import NotLocalError, grown
from worker.prompt.markers import Markers
from worker.prompt.thoughts import Thoughts, behind_header
from worker.prompt.turns import Scene, Turns
from worker.prompt.unit import Unit
from worker.prompt.windows import begins, marked, window

# Units before the one in question that its rendering may depend on.
WINDOW_UNITS = 4
_ENDING_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`text` of a unit, and the generation `header` that follows it."""

    text: str
    header: str


class PieceRenderer:
    """`tools_in_head`: only the first piece is rendered with tools. Either the others are the same without them, which
    saves time, or the template shows tools at the last user message, which would change the prompt's middle with every
    turn. `is_steady`: a longer conversation holds every piece as it was when it was the last; a template may write the
    end of a message otherwise when others follow.

    `counted`: as many calls as went before stand before a window, for a template that numbers them or writes
    something at the first only. `numbered`: after many calls, what it writes is told from what it writes after few.
    """

    def __init__(
        self, turns: Turns, closes: Closes, thoughts: Thoughts | None, markers: Markers, *, counted: bool
    ) -> None:
        self._turns = turns
        self._closes = closes
        self._thoughts = thoughts
        self._markers = markers
        self.counted = counted
        self.numbered = False
        self._holds: dict[tuple[Any, ...], tuple[int, ...]] = {}  # shape of a unit -> how many numbers of calls
        self.tools_in_head = False
        self.is_steady = True

    def head_variants(self, conversation: Conversation, scene: Scene) -> list[str]:
        """The head with two different first messages: what they share belongs to the head."""
        return [self._turns.body(conversation.beginning(text), scene) for text in (STAND_IN_USER, STAND_IN_OTHER)]

    def tools_variants(self, scene: Scene) -> list[str]:
        """The head with two different system texts: what they share belongs to the tools."""
        user = {"role": "user", "content": STAND_IN_USER}
        texts = (STAND_IN_USER, STAND_IN_OTHER)
        return [self._turns.body([{"role": "system", "content": text}, user], scene) for text in texts]

    def first(self, conversation: Conversation, scene: Scene) -> Piece:
        """The head and the first unit."""
        dicts = [*conversation.system, *conversation.units[0].dicts]
        text = self._turns.body(dicts, scene)
        return Piece(text=text, header=self._turns.header(dicts, scene, text))

    def next(self, conversation: Conversation, index: int, scene: Scene) -> Piece:
        """A user unit or tool results, at an index of at least 1. Raises `NotLocalError`."""
        scene = self.later(scene)
        start = begins(conversation, index, WINDOW_UNITS)
        text, header = self._behind_calls(
            conversation, start, index, partial(self._next, conversation, start, index, scene)
        )
        return Piece(text=text, header=header)

    def _next(self, conversation: Conversation, start: int, index: int, scene: Scene, calls: int) -> tuple[str, str]:
        before = self._window(conversation, start, index, calls)
        after = [*before, *conversation.units[index].dicts]
        short, long = self._turns.body(before, scene), self._turns.body(after, scene)
        close = ""
        if conversation.units[index - 1].kind == "assistant":
            close = self.close_of(before[-1])
            if not short.endswith(close):
                raise NotLocalError
        text = self._grown(before, conversation.units[index].dicts, scene, short, long)
        return close + text, self._turns.header(after, scene, long)

    def answer(self, conversation: Conversation, index: int, scene: Scene, header: str = "") -> str:
        """Header and text of an answer, the unit at `index`, as the template writes it while it is the last message.
        `header` is the generation header it followed."""
        scene = self.later(scene)
        start = begins(conversation, index - 1, WINDOW_UNITS)
        answer, beside = self._closes.apart(conversation.units[index].dicts[0])
        (text,) = self._behind_calls(
            conversation, start, index, partial(self._answer, conversation, start, index, scene, answer)
        )
        text = self._closes.together(text, beside)
        reasoning = answer.get("reasoning_content", "").strip()
        if self._thoughts is not None:
            return self._thoughts.restored(text, header, reasoning)
        return behind_header(text, header, self._markers) if reasoning else text

    def _answer(
        self, conversation: Conversation, start: int, index: int, scene: Scene, answer: dict[str, Any], calls: int
    ) -> tuple[str]:
        """Without what ends its turn."""
        before = self._up_to(conversation, start, index, calls)
        short, long = self._turns.body(before, scene), self._turns.body([*before, answer], scene)
        text = self._grown(before, [answer], scene, short, long)
        close = self.close_of(answer)
        if not text.endswith(close):
            raise NotLocalError
        return (text[: len(text) - len(close)],)

    def _grown(
        self, before: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], scene: Scene, short: str, long: str
    ) -> str:
        """What the `new` messages add; `short` and `long` are the bodies without and with them."""
        if long.startswith(short):
            return long[len(short) :]
        before, mark = marked(before)
        return grown(self._turns.body(before, scene), self._turns.body([*before, *new], scene), mark, self._markers)

    def after_answer(self, conversation: Conversation, index: int, scene: Scene) -> str:
        """End of an answer's turn and header of another, when nothing came between."""
        scene = self.later(scene)
        start = begins(conversation, index - 1, WINDOW_UNITS)
        (text,) = self._behind_calls(
            conversation, start, index, partial(self._after, conversation, start, index, scene)
        )
        return text

    def _after(self, conversation: Conversation, start: int, index: int, scene: Scene, calls: int) -> tuple[str]:
        answer, _ = self._closes.apart(conversation.units[index].dicts[0])
        dicts = [*self._up_to(conversation, start, index, calls), answer, *conversation.units[index].dicts[1:]]
        return (self.close_of(dicts[-1]) + self._turns.header(dicts, scene, self._turns.body(dicts, scene)),)

    def _behind_calls(
        self, conversation: Conversation, start: int, index: int, render: Callable[[int], tuple[str, ...]]
    ) -> tuple[str, ...]:
        """What `render` gives of the unit at `index` behind as many calls as the units before `start` made."""
        calls = conversation.past.calls(start) if self.counted else 0
        if not self.numbered or calls <= max(numbers.SAMPLES):
            return render(calls)
        shape = _shape(conversation, index)
        told = self._by_one(conversation, start, index, render, shape) or self._by_two(render, calls, shape)
        return told or render(calls)

    def _by_one(
        self,
        conversation: Conversation,
        start: int,
        index: int,
        render: Callable[[int], tuple[str, ...]],
        shape: tuple[Any, ...],
    ) -> tuple[str, ...] | None:
        """Told from a rendering behind a few calls; None where one does not tell."""
        holds = self._holds.get(shape)
        if holds is None:
            return None
        past, units = conversation.past, conversation.units[max(0, start - 1) : index + 1]
        calls, own = past.calls(start), past.calls(index + 1) - past.calls(start)
        few = numbers.few(frozenset().union(*(unit.numbers for unit in units)), own)
        if few is None:
            return None
        pairs = zip(render(few), holds, strict=True)
        return _all([numbers.after_one(text, few, own, calls, holds=most) for text, most in pairs])

    def _by_two(
        self, render: Callable[[int], tuple[str, ...]], calls: int, shape: tuple[Any, ...]
    ) -> tuple[str, ...] | None:
        """Told from renderings behind `numbers.SAMPLES`; None where they do not tell."""
        pairs = list(zip(*(render(few) for few in numbers.SAMPLES), strict=True))
        told = _all([numbers.after(pair, calls) for pair in pairs])
        if told is not None:
            self._holds[shape] = tuple(map(numbers.counted, pairs))
        return told

    def close_of(self, answer: Mapping[str, Any]) -> str:
        """What ends an answer's turn."""
        return self._closes.of(answer)

    def bare(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message as it is rendered here, for comparison with a whole rendering."""
        return self._closes.bare(message)

    def later(self, scene: Scene) -> Scene:
        """The scene of what is not the head."""
        return replace(scene, tools=()) if self.tools_in_head and scene.tools else scene

    def _up_to(self, conversation: Conversation, start: int, index: int, calls: int) -> list[dict[str, Any]]:
        """A small conversation up to an answer: the one in which the header before it was rendered."""
        before = self._window(conversation, start, index - 1, calls) if index > 1 else []
        return [*before, *conversation.units[index - 1].dicts]

    def _window(self, conversation: Conversation, start: int, index: int, calls: int) -> list[dict[str, Any]]:
        return window(conversation, start, index, call_text=self._closes.call_text, calls=calls)


def _all(texts: list[str | None]) -> tuple[str, ...] | None:
    return None if None in texts else tuple(text for text in texts if text is not None)


def _shape(conversation: Conversation, index: int) -> tuple[Any, ...]:
    """What makes units alike to a template that numbers calls: who speaks, how often, and after how many calls."""
    units, past = conversation.units, conversation.past
    return (
        *((unit.kind, len(unit.dicts)) for unit in units[index - 1 : index + 1]),
        *(past.calls(end + 1) - past.calls(end) for end in (index - 1, index)),
    )


def ending(text: str, body: str, unit: Unit) -> str:
    """What a prompt ends with after the last message's content: the generation header, or (for templates that always
    write one) the end of that message's own text."""
    if text.startswith(body) and len(text) > len(body):
        return text[len(body) :]
    content = "" if unit.has_images else str(unit.dicts[-1].get("content", "")).strip()
    return text.rpartition(content)[2] if content else text[-_ENDING_CHARS:]
