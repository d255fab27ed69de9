"""Answers that speak of calls, and calls whose ends are missing: no call is made of prose, and no text is lost."""

from __future__ import annotations

from typing import Any

import pytest

from shared.request import ToolDefinition
from tests.support.call_writers import write_answer
from tests.support.read_answers import said
from worker.answers.reasoning import Markup
from worker.formats.families import FAMILIES, Braces, Family

WRITE = ToolDefinition(
    name="Write",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path"],
        "additionalProperties": False,
    },
)
LIST = ToolDefinition(name="list_files", parameters={"type": "object", "properties": {"path": {"type": "string"}}})
MARKED = [family for family in FAMILIES.values() if family.start]
ENDED = [family for family in MARKED if family.end]
each_marked = pytest.mark.parametrize("family", MARKED, ids=lambda family: family.name)
each_ended = pytest.mark.parametrize("family", ENDED, ids=lambda family: family.name)
THINKING = Markup(think_start="<think>", think_end="</think>")
ARGUMENTS = {"path": "a b", "content": "x\n  y\n"}
CALL = ["Write", ARGUMENTS]


def answer(family: Family, text: str, reason: Any = "stop") -> list[Any]:
    """What an answer came to, the same however it is cut."""
    whole = said(family, THINKING, [text], (WRITE, LIST), reason)
    assert said(family, THINKING, list(text), (WRITE, LIST), reason) == whole
    return whole


@each_marked
def test_reasoning_that_mentions_the_marker_of_a_call_ends_where_it_ends(family: Family) -> None:
    mention = f"The marker {family.start} begins a call."
    written = write_answer(family, [("Write", ARGUMENTS)])
    assert answer(family, f"<think>\n{mention}\n</think>\n\nDone.") == [("think", mention), "Done."]
    assert answer(family, f"<think>\n{mention}\n</think>\nDo", "length") == [("think", mention), "Do"]
    assert answer(family, f"<think>\n{mention}\n</think>\n\n{written}") == [("think", mention), CALL]
    assert answer(family, f"<think>\n{mention}\n{written}") == [("think", mention), CALL]


@each_marked
def test_an_answer_that_mentions_the_marker_of_a_call_keeps_it_and_calls_behind_it(family: Family) -> None:
    mention = f"The marker {family.start} begins a call."
    written = write_answer(family, [("Write", ARGUMENTS)])
    assert answer(family, f"{mention}\n{mention}\n\n{written}") == [f"{mention}\n{mention}", CALL]
    assert answer(family, f"Use `{family.start}` and `{family.end}`.") == [f"Use `{family.start}` and `{family.end}`."]


@each_ended
@pytest.mark.parametrize("gap", ["", "\n"])
def test_a_region_without_its_end_ends_where_the_next_begins(family: Family, gap: str) -> None:
    first, second = (write_answer(family, [call]) for call in (("Write", ARGUMENTS), ("list_files", {"path": "b"})))
    both = [CALL, ["list_files", {"path": "b"}]]
    assert answer(family, first.removesuffix(family.end) + gap + second) == both


@pytest.mark.parametrize("family", [f for f in MARKED if isinstance(f.shape, Braces)], ids=lambda family: family.name)
@pytest.mark.parametrize("value", ["Q", "a Q b", "Q\n", "\nQ", "xQ", "QQ", "say Q, then", "Q: x", "[Q] Q"])
@pytest.mark.parametrize("key", ["path", "content"])
def test_a_string_may_spell_the_quote_that_ends_it(family: Family, value: str, key: str) -> None:
    assert isinstance(family.shape, Braces)
    arguments = {"path": "p", "content": "c", key: value.replace("Q", family.shape.quote)}
    assert answer(family, write_answer(family, [("Write", arguments)])) == [["Write", arguments]]


def test_a_raw_string_ends_where_its_call_does_although_a_bracket_is_missing() -> None:
    family = FAMILIES["gemma4"]
    written = write_answer(family, [("Write", ARGUMENTS)]).replace("}", "")
    assert answer(family, written) == [CALL]


def test_a_section_without_its_elements_end_ends_with_its_call() -> None:
    written = write_answer(FAMILIES["minicpm5"], [("Write", ARGUMENTS)])
    assert answer(FAMILIES["minicpm5"], written.replace("]]></param>", "]]>")) == [CALL]
