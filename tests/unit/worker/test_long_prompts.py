"""Long conversations seen for the first time: what they cost grows with their length, also where calls are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest
from tests.unit.worker.prompt_models import tokenizer_of
from worker.prompt import PromptBuilder, numbers
from worker.prompt.template import Template

COUNTED = ("command", "first_only")


def said(role: str, text: str, *calls: ToolCallPart) -> Message:
    return Message(role=role, parts=(TextPart(text=text), *calls))  # type: ignore[arg-type]


def rounds(count: int) -> list[Message]:
    """A question, calls with their results, an answer and another question. The words hold numbers, too."""
    messages = [said("user", "read 9 and 10")]
    for number in range(count):
        call = ToolCallPart(id=f"c{number:08d}", name="read", arguments=f'{{"line": {number}}}')
        messages.append(said("assistant", f"line {number}", call))
        messages.append(Message(role="tool", parts=(ToolResultPart(call_id=call.id, parts=(TextPart(text="9"),)),)))
    return [*messages, said("assistant", "10 it is"), said("user", "thanks")]


def request_of(messages: Sequence[Message]) -> GenerateRequest:
    return GenerateRequest(id="r", model="m", messages=tuple(messages))


def builder_of(name: str) -> PromptBuilder:
    return PromptBuilder(tokenizer_of(name), context_tokens=1 << 20)


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_told_from_few_calls_is_what_the_template_writes_behind_all_of_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, builder = request_of(rounds(120)), builder_of(name)
    tokens = builder.build(request).tokens
    assert builder.facts.mode == "counted window"
    told = []
    monkeypatch.setattr(numbers, "after", lambda _, calls: told.append(calls))
    assert builder_of(name).build(request).tokens == tokens
    assert max(told) > 110, "every call was rendered"


@pytest.mark.parametrize("name", COUNTED)
def test_what_one_rendering_tells_is_what_two_tell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that say the numbers which the calls have behind few others, and those that do not."""
    talked = [
        replace(message, parts=(TextPart(text="5 6"),)) if message.role == "user" else message for message in rounds(60)
    ]
    request, builder = request_of([*rounds(60)[:-1], *talked]), builder_of(name)
    used: list[int] = []
    after_one = numbers.after_one

    def telling(text: str, few: int, own: int, calls: int, *, holds: int) -> str | None:
        used.append(few)
        return after_one(text, few, own, calls, holds=holds)

    monkeypatch.setattr(numbers, "after_one", telling)
    tokens = builder.build(request).tokens
    assert len(used) > 100, "one rendering tells most"
    monkeypatch.setattr(numbers, "few", lambda said, own: None)
    assert builder_of(name).build(request).tokens == tokens


@pytest.mark.parametrize("name", [*COUNTED, "qwen3", "kimi"])
def test_a_conversation_twice_as_long_is_twice_the_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in messages and calls that the template is given."""
    given_: list[int] = []
    render = Template.render

    def counting(self: Template, messages: Sequence[Mapping[str, Any]], *args: Any, **named: Any) -> str:
        given_.append(sum(1 + len(message.get("tool_calls", ())) for message in messages))
        return render(self, messages, *args, **named)

    monkeypatch.setattr(Template, "render", counting)
    work = []
    for count in (40, 80):
        builder = builder_of(name)
        given_.clear()
        builder.build(request_of(rounds(count)))
        work.append(sum(given_))
    assert work[1] < 2.5 * work[0]


def written(text: str, offsets: Sequence[int], calls: int) -> str:
    """The text with numbers of calls, one in each `#`."""
    parts = text.split("#")
    return "".join(part + str(calls + offset) for part, offset in zip(parts, offsets, strict=False)) + "".join(
        parts[len(offsets) :]
    )


@given(
    st.lists(st.text("ab09# \n", max_size=6), min_size=1, max_size=5),
    st.integers(0, 4),
    st.integers(11, 12_000),
)
def test_numbers_of_calls_after_many_are_told_from_those_after_few_or_not_at_all(
    texts: list[str], first: int, calls: int
) -> None:
    """Whatever digits stand around them."""
    text = "#".join(texts).replace("##", "# #")
    offsets = [first + number for number in range(text.count("#"))]
    found = numbers.after([written(text, offsets, few) for few in numbers.SAMPLES], calls)
    assert found in (None, written(text, offsets, calls))


def test_a_number_that_stands_apart_is_told() -> None:
    assert numbers.after(["09 call 9, 11", "09 call 10, 12"], 1234) == "09 call 1234, 1236"
    assert numbers.after(["no call 9", "no call 9"], 1234) == "no call 9"
    assert numbers.after(["an odd call", "an even call"], 1234) is None


@given(
    st.lists(st.text("abc1259# \n", max_size=8), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(11, 12_000),
)
def test_one_rendering_tells_the_numbers_of_calls_or_nothing(texts: list[str], own: int, calls: int) -> None:
    """Whatever was said around them: a number behind another digit is missed, and then there are too few."""
    text = "#".join(texts).replace("##", "# #")
    offsets = [at % own for at in range(text.count("#"))]
    said = numbers.short(text.replace("#", " "))
    few = numbers.few(said, own)
    if few is None:
        return
    found = numbers.after_one(written(text, offsets, few), few, own, calls, holds=len(offsets))
    assert found in (None, written(text, offsets, calls))


def test_a_rendering_behind_numbers_that_nobody_said_is_found() -> None:
    said = numbers.short("lines 1 to 100, 07, 2026")
    assert said == {"1", "100"}
    assert numbers.few(said, 3) == 5
    assert numbers.few({"1", "6", "13"}, 2) is None
    assert numbers.after_one("call 5: line 1, call 6", 5, 2, 1234, holds=2) == "call 1234: line 1, call 1235"
    assert numbers.after_one("call 5: line 15", 5, 2, 1234, holds=2) is None
