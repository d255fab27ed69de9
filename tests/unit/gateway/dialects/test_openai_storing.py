"""Stored completions as the API shows them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.openai_chat.storing import render_list, render_messages
from shared.errors import InvalidRequestError


def answer(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "model": "m", **fields}


LATEST_FIRST = [answer(3, metadata={"a": "1"}), answer(2, model="other"), answer(1, metadata={"a": "1", "b": "2"})]


def ids(page: dict[str, Any]) -> list[str]:
    return [item["id"].removeprefix("chatcmpl-") for item in page["data"]]


@pytest.mark.parametrize(
    ("query", "expected", "has_more"),
    [
        ({}, ["1", "2", "3"], False),
        ({"order": "desc"}, ["3", "2", "1"], False),
        ({"limit": "2"}, ["1", "2"], True),
        ({"after": "chatcmpl-2"}, ["3"], False),
        ({"after": "chatcmpl-3"}, [], False),
        ({"after": "chatcmpl-1", "limit": "1"}, ["2"], True),
        ({"model": "m"}, ["1", "3"], False),
        ({"metadata[a]": "1"}, ["1", "3"], False),
        ({"metadata[a]": "1", "metadata[b]": "2"}, ["1"], False),
        ({"metadata[a]": "2"}, [], False),
    ],
)
def test_a_page_of_what_the_query_asks_for(query: dict[str, str], expected: list[str], has_more: bool) -> None:
    page = render_list(LATEST_FIRST, query)
    assert (ids(page), page["has_more"]) == (expected, has_more)
    assert (page["first_id"], page["last_id"]) == (
        (f"chatcmpl-{expected[0]}", f"chatcmpl-{expected[-1]}") if expected else (None, None)
    )


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"after": "nobody"}, {"order": "up"}]
)
def test_what_is_no_page_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render_list(LATEST_FIRST, query)
    assert caught.value.details["param"] == next(iter(query))


def test_messages_have_ids_and_parts_apart_from_text() -> None:
    parts = [{"type": "text", "text": "hi"}]
    messages = [{"role": "system", "content": "be good"}, {"role": "user", "content": parts}]
    page = render_messages(messages, "chatcmpl-1", {})
    assert [(item["id"], item["content"], item["content_parts"]) for item in page["data"]] == [
        ("chatcmpl-1-0", "be good", None),
        ("chatcmpl-1-1", None, parts),
    ]
