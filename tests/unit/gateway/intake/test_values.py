"""How many values a body holds, told from its bytes alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.intake.values import ValueCount
from shared.errors import RequestTooLargeError

_TEXT = st.text(alphabet='ab"\\{[,\n', max_size=6)
_JSON = st.recursive(
    _TEXT | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner), max_leaves=12
)


def counted(body: bytes, *, chunk_bytes: int = 1 << 20) -> int:
    count = ValueCount()
    for start in range(0, len(body), chunk_bytes):
        count.feed(body[start : start + chunk_bytes])
    return count.count


def separators(value: Any) -> int:
    """Objects, arrays and separators of a value."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        return 0
    return 1 + max(0, len(inner) - 1) + sum(map(separators, inner))


@given(value=_JSON, chunk_bytes=st.integers(1, 9), ascii_only=st.booleans())
def test_strings_count_for_nothing_however_the_body_is_cut(value: Any, chunk_bytes: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert counted(body, chunk_bytes=chunk_bytes) == separators(value)


def test_a_million_blocks_are_refused_long_before_the_last_and_one_image_is_not() -> None:
    block = b'{"type":"text","text":"a"},'
    count = ValueCount(limit=1000)
    count.feed(b'{"content":[' + block * 100)
    with pytest.raises(RequestTooLargeError, match="more than 1000 values"):
        count.feed(block * 1000)
    assert counted(b'{"data":"' + b"{[,A" * 1_000_000 + b'"}') == 1
