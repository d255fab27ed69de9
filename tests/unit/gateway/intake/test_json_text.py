"""Bodies that a client may legally send and a strict reader refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.intake.json_text import parse_json
from shared.errors import InvalidRequestError

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
