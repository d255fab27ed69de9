"""Markers in text that arrives in pieces, and the modes they lead to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.answers.reasoning import BARE_TOOL, HEADER, REASONING, STRAY, TEXT, TOOL, Markers, Markup, mode_table


def found_in(markers: Markers, pieces: Sequence[str]) -> tuple[str, str, str]:
    """Text before the first marker, the marker, and what came after it."""
    before, held = "", ""
    for index, piece in enumerate(pieces):
        found = markers.find(held + piece)
        before += found.text
        if found.marker:
            return before, found.marker, found.rest + "".join(pieces[index + 1 :])
        held = found.rest
    return before + held, "", ""


@pytest.mark.parametrize(
    ("text", "markers", "expected"),
    [
        ("a<think>b", ["<think>"], ("a", "<think>", "b")),
        ("a<thin b", ["<think>"], ("a<thin b", "", "")),
        ("xabcdx", ["abcd", "bc"], ("xa", "bc", "dx")),  # the one that is complete first
        ("xabcx", ["abc", "bc"], ("x", "abc", "x")),  # of two that end together the longer
        ("aab", ["ab"], ("a", "ab", "")),
        ("anything", [], ("anything", "", "")),
    ],
)
def test_the_first_complete_marker_is_found_however_the_text_is_cut(
    text: str, markers: list[str], expected: tuple[str, str, str]
) -> None:
    table = Markers((marker, TEXT) for marker in markers)
    assert found_in(table, [text]) == expected
    assert found_in(table, list(text)) == expected
    for cut in range(1, len(text)):
        assert found_in(table, [text[:cut], text[cut:]]) == expected


@given(
    text=st.text("ab<", max_size=25),
    markers=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=4, unique=True),
    cuts=st.lists(st.integers(0, 25), max_size=5),
)
@settings(max_examples=300)
def test_how_the_text_is_cut_makes_no_difference(text: str, markers: list[str], cuts: list[int]) -> None:
    table = Markers((marker, TEXT) for marker in markers)
    ends = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    pieces = [text[start:end] for start, end in itertools.pairwise(ends)]
    whole = found_in(table, [text])
    assert found_in(table, pieces) == whole
    assert found_in(table, list(text)) == whole
    assert "".join(whole) == text


@given(text=st.text("ab<", max_size=10), markers=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3))
def test_text_that_cannot_match_holds_nothing_of_a_marker(text: str, markers: list[str]) -> None:
    table = Markers((marker, TEXT) for marker in markers)
    if table.cannot_match(text):
        found = table.find(text)
        assert (found.text, found.marker, found.rest) == (text, "", "")


THINKING = Markup(think_start="<think>", think_end="</think>")
CALLS = ("<call>", "</call>")


def test_calls_are_looked_for_in_text_and_reasoning() -> None:
    table = mode_table(THINKING, calls=CALLS, bare_starts=("<function=",))
    assert table[TEXT].targets == {
        "</think>": STRAY,
        "<think>": REASONING,
        "</call>": STRAY,
        "<call>": TOOL,
        "<function=": BARE_TOOL,
    }
    assert table[REASONING].targets == {"<think>": STRAY, "</think>": TEXT, "<call>": TOOL}


def test_without_tools_call_markup_leads_nowhere() -> None:
    table = mode_table(THINKING, calls=None, bare_starts=("<function=",))
    assert set(table[TEXT].targets) == {"<think>", "</think>"}
    assert set(table[REASONING].targets) == {"<think>", "</think>"}


def test_a_model_without_reasoning_has_no_such_markers() -> None:
    assert not mode_table(Markup(), calls=None)[TEXT].targets


def test_a_response_format_decides_where_calls_begin() -> None:
    transitions = {HEADER: [("to=user", TEXT), ("<call>", TOOL)], TEXT: [("<eom>", HEADER)]}
    table = mode_table(replace(THINKING, transitions=transitions), calls=CALLS)
    assert table[HEADER].targets == {"to=user": TEXT, "<call>": TOOL}
    assert "<call>" not in table[TEXT].targets
    assert table[TEXT].targets["<eom>"] == HEADER
    assert "<call>" not in mode_table(replace(THINKING, transitions=transitions), calls=None)[HEADER].targets
