"""Numbers that no float holds stay as they are written, through JSON, the wire and the ways to copy a value."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.intake.values import ValueCount
from shared import exact, wire
from shared.request import ToolDefinition

ODD = ("1e400", "-1e400", "0.1000000000000000055", "12345678901234567890123", "1.50", "1E5", "-0", "9" * 5000)
USUAL = ("0", "-1", "1.0", "0.5", "1e+16", "9007199254740993", "18446744073709551615", "-9223372036854775808")

integers = st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})\Z")
numbers = st.builds(
    lambda *parts: "".join(parts),
    integers,
    st.just("") | st.from_regex(r"\A\.[0-9]{1,20}\Z"),
    st.just("") | st.from_regex(r"\A[eE][+-]?[0-9]{1,3}\Z"),
)


def is_suspect(body: bytes, chunk: int = 1 << 20) -> bool:
    count = ValueCount()
    for at in range(0, len(body), chunk):
        count.feed(body[at : at + chunk])
    return count.is_exact


@given(st.lists(numbers, max_size=4), st.integers(1, 30))
def test_what_is_read_is_written_again_and_found_in_a_body_however_it_is_cut(texts: list[str], chunk: int) -> None:
    body = '{"a": "1e5", "b": [' + ", ".join(texts) + "]}"
    value = exact.loads(body)
    assert exact.dumps(value) == body
    assert exact.dump_bytes(value).decode() == body.replace(" ", "")
    assert exact.load_bytes(body.encode()) == value
    if any(isinstance(item, exact.ExactNumber) for item in value["b"]):
        assert is_suspect(body.encode(), chunk)


@pytest.mark.parametrize("text", USUAL)
def test_usual_numbers_are_pythons_own(text: str) -> None:
    assert exact.loads(text) == json.loads(text)
    assert type(exact.loads(text)) in (int, float)


def test_what_stands_in_strings_makes_no_body_slower() -> None:
    body = orjson.dumps({"a": "1e5 and 12345678901234567890123", "b": ["0.1000000000000000055", 1, 2.5, True, None]})
    assert not is_suspect(body)


@pytest.mark.parametrize("text", ODD)
def test_a_number_comes_whole_through_the_wire_and_every_copy(text: str) -> None:
    parameters = {"properties": {"n": {"maximum": exact.loads(text)}}}
    tool = ToolDefinition(name="t", parameters=parameters)
    ways: list[Any] = [wire.decode(wire.encode(tool)), pickle.loads(pickle.dumps(tool)), copy.deepcopy(tool)]
    for came in ways:
        assert exact.dumps(came.parameters) == '{"properties": {"n": {"maximum": ' + text + "}}}"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[1e400, NaN]", "01", "1."])
def test_what_json_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact.loads(text)


def test_half_of_a_surrogate_pair_is_no_json_beside_such_a_number_either() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        exact.load_bytes(rb'[1e400, "\ud83d"]')
