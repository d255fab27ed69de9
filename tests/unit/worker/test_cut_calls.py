"""An answer that is cut inside a call which has no name yet ends before the call; what may be text stays text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from shared.events import Event, Finished, ReasoningDelta, Started, TextDelta, ToolCallStarted, Usage, assemble
from shared.request import GenerateRequest, ToolChoice, ToolDefinition
from tests.support.call_writers import write_answer
from worker.answers.form import AnswerFormat, Beginning
from worker.answers.reasoning import Markup
from worker.answers.stream import AnswerStream
from worker.formats.families import FAMILIES, Family
from worker.formats.readers import CallFormat

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
TOOLS = tuple(ToolDefinition(name=name, parameters=SCHEMA) for name in ("Write", "list_files"))
LEAD = "Let me see.\n\n"
# With so much of it a marker may be something else: an operator, another tag.
SHORT = 6

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)


def answer(family: Family, pieces: Sequence[str], reason: Any = "length", **options: Any) -> tuple[str, list[str], str]:
    """(the text, the names of the calls, why it ended)"""
    markup = Markup(think_start="<think>", think_end="</think>")
    request = GenerateRequest(id="r", model="m", messages=(), tools=TOOLS, **options)
    ids = (str(number) for number in count())
    stream = AnswerStream(AnswerFormat(markup, CallFormat(family)), request, Beginning(), ids.__next__)
    events: list[Event] = [event for piece in pieces for event in stream.text(piece)]
    last, finish, _ = stream.finish(reason)
    events += last
    text = "".join(event.text for event in events if isinstance(event, TextDelta | ReasoningDelta))
    return text, [event.name for event in events if isinstance(event, ToolCallStarted)], finish


@each_family
@pytest.mark.parametrize("choice", ["auto", "none"])
@pytest.mark.parametrize("lead", ["", LEAD], ids=["first", "after text"])
def test_a_cut_call_never_leaves_markup_in_the_text(family: Family, lead: str, choice: Any) -> None:
    if lead and not family.start:
        pytest.skip("its calls have no marker: they begin the answer")
    written = write_answer(family, [("Write", {"path": "a"})])
    named = written.index("Write") + len("Write")
    for length in range(SHORT, min(len(written), named + 40) + 1):
        if written[:length] in ("functools"[:length], "Action"):
            continue  # a word
        text = lead + written[:length]
        whole = answer(family, [text], tool_choice=ToolChoice(mode=choice))
        if choice == "auto":
            assert whole == answer(family, list(text))
        shown, calls, finish = whole
        assert shown.rstrip() == lead.rstrip(), text
        assert finish == "length"
        assert calls == ([] if length < named or choice == "none" else calls)


@each_family
def test_a_second_call_that_is_cut_is_none_and_no_text(family: Family) -> None:
    first, second = (write_answer(family, [("Write", {"path": path})]) for path in "ab")
    both = write_answer(family, [("Write", {"path": "a"}), ("Write", {"path": "b"})])
    for written in (first + "\n" + second, both) if family.start else ():
        begin = written.rindex("Write")
        for length in range(begin, begin + 3):
            text, calls, finish = answer(family, [written[:length]])
            assert (text, calls, finish) == ("", ["Write"], "length")
            assert answer(family, list(written[:length])) == (text, calls, finish)


@each_family
def test_prose_behind_a_marker_is_shown_where_it_is_cut(family: Family) -> None:
    if not family.start:
        pytest.skip("it has no marker")
    text = f"{family.start} is how a call begins, and"
    assert answer(family, [text])[0] == answer(family, list(text))[0] == text


@each_family
def test_a_begun_call_that_the_model_ended_itself_is_shown(family: Family) -> None:
    if not family.start:
        pytest.skip("it has no marker")
    assert answer(family, [family.start + "\n"], "stop")[0].strip() == family.start


@pytest.mark.parametrize("family", ["json_tools", "glm47", "kimi_k2", "mistral"])
@pytest.mark.parametrize(
    "text", ['{"na', '{"name": "Bob', '```json\n{"name": "B', "[1, 2", "a <", "a <b", '{"age": 3', "["]
)
def test_json_that_names_no_tool_is_text(family: str, text: str) -> None:
    assert answer(FAMILIES[family], [text])[0] == answer(FAMILIES[family], list(text))[0] == text


@pytest.mark.parametrize(
    "text", ['{"name": "Wri', '{"name": "Write", "argu', '```json\n{"name": "list', '[{"name": "Write"']
)
def test_json_without_a_marker_that_names_a_tool_is_a_call(text: str) -> None:
    assert answer(FAMILIES["json_tools"], [text])[0] == answer(FAMILIES["json_tools"], list(text))[0] == ""


@pytest.mark.parametrize("text", ["<think>Hm.</thi", "<thin", "<think>Hm.</think>\n\n<too", "<think>Hm.\n<tool_ca"])
def test_a_marker_of_reasoning_that_is_cut_is_no_text(text: str) -> None:
    expected = "Hm." if "Hm." in text else ""
    assert answer(FAMILIES["json_tools"], [text])[0] == answer(FAMILIES["json_tools"], list(text))[0] == expected


@pytest.mark.parametrize("marker", ['<function name="', "<function name=", "<function "])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_marker_that_begins_no_call_comes_back_once(marker: str, reason: str) -> None:
    family = FAMILIES["minicpm5"]
    text = marker + " is how calls begin " * 20
    assert answer(family, [text], reason)[0] == answer(family, list(text), reason)[0] == text
    assert json.dumps(answer(family, [marker], reason))


@each_family
def test_prose_behind_a_call_has_no_markup_of_the_call(family: Family) -> None:
    prose = " and so it goes" * 30
    written = write_answer(family, [("Write", {"path": "a"})]).removesuffix(family.end)
    text, calls, _ = answer(family, [written + prose], "stop")
    assert calls == ["Write"]
    assert prose.strip().endswith(text.strip())


NEEDY = (
    ToolDefinition(
        name="Write",
        parameters={
            "type": "object",
            "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
            "required": ["path", "content"],
            "additionalProperties": False,
        },
    ),
    *TOOLS[1:],
)


@each_family
@pytest.mark.parametrize("reason", ["length", "stop"])
def test_wherever_an_answer_ends_every_call_that_was_begun_is_ended(family: Family, reason: Any) -> None:
    quoted = write_answer(family, [("list_files", {"path": "p"})])
    written = write_answer(family, [("Write", {"path": " a b", "content": f"so {quoted}\n"})])
    for length in range(1, len(written) + 1):
        request = GenerateRequest(id="r", model="m", messages=(), tools=NEEDY)
        ids = (str(number) for number in count())
        stream = AnswerStream(AnswerFormat(Markup(), CallFormat(family)), request, Beginning(), ids.__next__)
        events = stream.text(written[:length])
        last, finish, _ = stream.finish(reason)
        assemble([Started(usage=Usage()), *events, *last, Finished(reason=finish, usage=Usage(), stop_sequence="")])
