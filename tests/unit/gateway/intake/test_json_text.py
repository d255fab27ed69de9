"""Bodies that a client may legally send and a strict reader refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.registry import DIALECTS
from gateway.intake.json_text import parse_json
from gateway.intake.reading import Asked, read_request
from gateway.intake.values import ValueCount
from shared import exact
from shared.errors import InvalidRequestError
from shared.messages import ToolCallPart

_ANY_TEXT = st.text(st.one_of(st.characters(), st.sampled_from('\\"/u\ud83d\ude00\udc00\ud800')), max_size=12)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'"cut \ud83d here"', "cut \ufffd here"),
        (rb'"\ude00"', "\ufffd"),
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (rb'"\ud83d\ude00"', "😀"),
        (rb'"\uD83D\n"', "\ufffd\n"),
        (rb'"\\ud83d \ud83d"', "\\ud83d \ufffd"),
        (rb'"\\\ud83d"', "\\\ufffd"),
        (rb'"\\ud83d\ude00"', "\\ud83d\ufffd"),
        (rb'{"\ud83d": ["\udfff"]}', {"\ufffd": ["\ufffd"]}),
    ],
)
def test_half_of_a_surrogate_pair_is_a_replacement_character(body: bytes, value: object) -> None:
    assert parse_json(body) == value


@given(st.recursive(_ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(_ANY_TEXT, inner), max_leaves=6))
def test_whatever_json_escapes_is_read_with_only_halves_replaced(value: object) -> None:
    sent = json.dumps(value).encode()
    # The standard library keeps halves as they are.
    kept = json.dumps(json.loads(sent), ensure_ascii=False)
    assert parse_json(sent) == json.loads(kept.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


@pytest.mark.parametrize("body", [b"", b"{", rb'"\ud83d', rb'{"a": \ud83d}', b'"\xed\xa0\xbd"', rb'"\ud8"'])
def test_what_is_no_json_is_refused_with_the_hint(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"not valid JSON.*; a hint$"):
        parse_json(body, "; a hint")


NUMBERS = "[1e400, -1e400, 0.1000000000000000055, 12345678901234567890123, -0, 1.50, 1E5]"
SCHEMA = '{"type": "object", "properties": {"n": {"minimum": -1e400, "maximum": 123456789012345678901234567890}}}'
ARGUMENTS = f'{{"k": {NUMBERS}}}'
BODIES = {
    "anthropic": (
        f'{{"model": "m", "max_tokens": 9, "temperature": 1e-1, "tools": [{{"name": "t", "input_schema": {SCHEMA}}}],'
        f'"messages": [{{"role": "user", "content": "x"}}, {{"role": "assistant", "content": [{{"type": "tool_use",'
        f'"id": "a", "name": "t", "input": {ARGUMENTS}}}]}}, {{"role": "user", "content": [{{"type": "tool_result",'
        f'"tool_use_id": "a", "content": "ok"}}]}}]}}'
    ),
    "openai_chat": (
        f'{{"model": "m", "temperature": 1e-1, "tools": [{{"type": "function", "function": {{"name": "t",'
        f'"parameters": {SCHEMA}}}}}], "messages": [{{"role": "user", "content": "x"}}, {{"role": "assistant",'
        f'"tool_calls": [{{"type": "function", "id": "a", "function": {{"name": "t",'
        f'"arguments": {json.dumps(ARGUMENTS)}}}}}]}}, {{"role": "tool", "tool_call_id": "a", "content": "ok"}}]}}'
    ),
    "openai_responses": (
        f'{{"model": "m", "temperature": 1e-1, "tools": [{{"type": "function", "name": "t", "parameters": {SCHEMA}}}],'
        f'"input": [{{"role": "user", "content": "x"}}, {{"type": "function_call", "call_id": "a", "name": "t",'
        f'"arguments": {json.dumps(ARGUMENTS)}}}, {{"type": "function_call_output", "call_id": "a", "output": "ok"}}]}}'
    ),
}


@pytest.mark.parametrize("dialect", BODIES)
def test_numbers_of_calls_and_schemas_stay_as_the_client_wrote_them(dialect: str) -> None:
    body = BODIES[dialect].encode()
    values = ValueCount()
    values.feed(body)
    asked = Asked(headers={}, request_id="r", is_exact=values.is_exact)
    request = read_request(DIALECTS[dialect], asked, body).request
    parts = [part for message in request.messages for part in message.parts if isinstance(part, ToolCallPart)]
    assert [part.arguments for part in parts] == [ARGUMENTS]
    assert exact.dumps(request.tools[0].parameters) == SCHEMA
    assert request.sampling.temperature == 0.1


@pytest.mark.parametrize("body", [b"[1e400, NaN]", b'["\xff", 1e400]', b"[1e400", b"[" * 100_000 + b"1e400"])
def test_what_is_no_json_is_refused_beside_such_numbers_too(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_json(body, is_exact=True)


def test_half_of_a_surrogate_pair_is_replaced_beside_such_numbers_too() -> None:
    assert exact.dumps(parse_json(rb'[1e400, "\ud83d"]', is_exact=True), ensure_ascii=False) == '[1e400, "\ufffd"]'
