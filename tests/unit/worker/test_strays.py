"""Ends without a beginning, calls without their region, and answers whose parts are addressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from shared.request import ToolDefinition
from tests.support.call_writers import write_answer
from tests.support.read_answers import said
from worker.answers.reasoning import Markup
from worker.formats.families import ASKED, FAMILIES, Family, Headed, Nested, Objects, Python, Tagged
from worker.formats.reasoning import REASONING_FAMILIES, Reasoning

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
TOOLS = tuple(ToolDefinition(name=name, parameters=SCHEMA) for name in ("Write", "list_files"))
MARKED = [family for family in REASONING_FAMILIES.values() if not family.is_phrase]
each_reasoning = pytest.mark.parametrize("reasoning", MARKED, ids=lambda family: family.name)


def answer(
    text: str, *, family: Family = ASKED, markup: Markup | None = None, tools: Sequence[ToolDefinition] = TOOLS
) -> list[Any]:
    """What an answer came to, the same however it is cut."""
    markup = markup or Markup(think_start="<think>", think_end="</think>", is_phrase=True)
    whole = said(family, markup, [text], tools)
    assert said(family, markup, list(text), tools) == whole
    return whole


def markup_of(reasoning: Reasoning) -> Markup:
    return Markup(
        think_start=reasoning.start,
        think_end=reasoning.end,
        answer_start=reasoning.answer_start,
        answer_end=reasoning.answer_end,
        wraps_always=reasoning.wraps_always,
    )


@each_reasoning
@pytest.mark.parametrize("before", ["Hm, so.", "Hm, so.\n"])
@pytest.mark.parametrize("behind", ["\n\nYes.", "", "  \nYes."])
def test_the_end_of_reasoning_that_nothing_began_is_no_text(reasoning: Reasoning, before: str, behind: str) -> None:
    (text,) = answer(before + reasoning.end + behind, markup=markup_of(reasoning))
    assert reasoning.end not in text
    assert text.split() == (before + behind).split()


@each_reasoning
@pytest.mark.parametrize(
    "text", ["End it with {} please.", "It is `{}`.", "```\nHm.\n{}\n```", "({})", "Between {start} and {}\nit thinks."]
)
def test_the_end_of_reasoning_that_an_answer_speaks_of_is_text(reasoning: Reasoning, text: str) -> None:
    text = text.replace("{}", reasoning.end).replace("{start}", reasoning.start)
    assert answer(text, markup=markup_of(reasoning)) == [text]


@pytest.mark.parametrize("family", [family for family in FAMILIES.values() if family.end], ids=lambda f: f.name)
def test_the_end_of_a_call_that_nothing_began_is_no_text(family: Family) -> None:
    assert answer(f"It is done.\n{family.end}\n", family=family) == ["It is done.\n\n"]
    assert answer(f"Then {family.end} follows.", family=family) == [f"Then {family.end} follows."]


def begins_alone(family: Family) -> bool:
    """Whether its call says what it is without the region's start."""
    match family.shape:
        case Tagged(call=call):
            return call is not None and not call.before.startswith(family.start)
        case Objects() | Python():
            return family.start in ("", "<tool_call>")
        case Headed(begin=begin):
            return begin.startswith(("<|", "<\uff5c")) and begin != family.start
        case shape:
            return isinstance(shape, Nested)


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if begins_alone(f)], ids=lambda f: f.name)
def test_a_call_behind_text_is_read_without_the_start_of_its_region(family: Family) -> None:
    call = write_answer(family, [("Write", {"path": "a b"})]).removeprefix(family.start).lstrip("\n")
    assert answer(f"Look.\n{call}", family=family) == ["Look.", ["Write", {"path": "a b"}]]
    if not family.start or family is ASKED:
        shown = f"So:\n```\n{call.removesuffix(family.end).strip()}\n```"
        assert answer(shown, family=family) == [shown]


@pytest.mark.parametrize("name", ["llama", "llama_python", "minimax_m3", "json_tools", "deepseek_v31"])
@pytest.mark.parametrize(
    "text", ['See\n{"name": "Ann", "age": 3}', "See\n[a](b)", "See\n]<]minimax[>[<invoke>", 'See\n{"name"', "See\n["]
)
def test_what_begins_as_a_call_and_is_none_is_text(name: str, text: str) -> None:
    assert answer(text, family=FAMILIES[name]) == [text]


ADDRESSED = [family for family in FAMILIES.values() if isinstance(family.shape, Headed) and family.shape.everyone]


@pytest.mark.parametrize("family", ADDRESSED, ids=lambda family: family.name)
@pytest.mark.parametrize("is_begun", [True, False], ids=["begun by the prompt", "begun by the answer"])
def test_parts_of_an_answer_reach_whom_they_are_addressed_to(family: Family, is_begun: bool) -> None:
    shape = family.shape
    assert isinstance(shape, Headed)
    text = f"{shape.everyone}{shape.middle}Look.{shape.begin}Write{shape.middle}"
    text += f'{{"path": " >>> all\\n"}}{shape.begin}list_files{shape.middle}{{}}'
    text = text if is_begun else shape.begin + text
    calls = [["Write", {"path": " >>> all\n"}], ["list_files", {}]]
    assert answer(text, family=family) == ["Look.", *calls]
    assert answer(text.partition("Look.")[2].removeprefix(shape.begin), family=family) == calls
    assert answer(f"{shape.everyone}{shape.middle}Hello", family=family, tools=()) == ["Hello"]


def test_the_prompt_of_a_python_shell_is_text_where_it_also_begins_a_call() -> None:
    text = "Try:\n>>> import os\n>>> print(1)\n1"
    assert answer(text, family=FAMILIES["functionary_v32"]) == [text]
    assert answer(f"all\n{text}", family=FAMILIES["functionary_v32"]) == [text]


def test_words_that_also_begin_a_call_are_text() -> None:
    for text in ("Action: run it.\nThen", "Action:\n```json\n[1, 2]\n```\nso", "Action:\n```sh\nls\n```"):
        assert answer(text, family=FAMILIES["command_r"]) == [text]
    for text in ("Write <function=name> and so", "<function=f>\nx", "a <function= b"):
        assert answer(text, family=FAMILIES["functionary_v31"]) == [text]


@pytest.mark.parametrize("fence", ["\n```json\n", " ```json\n", "\n```\n", "\n"])
def test_the_fence_around_calls_is_as_the_model_wrote_it(fence: str) -> None:
    end = "```" if "`" in fence else ""
    text = f'Plan.\nAction:{fence}[\n  {{"tool_name": "Write", "parameters": {{"path": "```a"}}}}\n]{end}\n'
    assert answer(text, family=FAMILIES["command_r"]) == ["Plan.", ["Write", {"path": "```a"}]]
