"""An error takes on its path on the way out, and leaves a dialect in the client's notation."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects import fields
from gateway.dialects.fields import FieldError
from gateway.dialects.registry import DIALECTS
from shared.errors import InvalidRequestError, UnsupportedContentError


def test_an_error_collects_where_it_was() -> None:
    def parse(item: Any) -> str:
        with fields.within("source"):
            return fields.string(fields.mapping(item).get("url"), "url")

    with pytest.raises(FieldError) as raised, fields.within("messages", 2):
        fields.each([{"url": "a"}, {"url": 5}, {}], parse)
    assert raised.value.path == ("messages", 2, 1, "source", "url")


def test_what_passes_leaves_no_trace() -> None:
    with fields.within("a"):
        assert fields.each([1, 2], lambda item: item + 1) == [2, 3]


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError) as raised, fields.named(str), fields.within("a"):
        fields.each([1], lambda _: {}["b"])
    assert raised.value.args == ("b",)


def test_the_edge_names_the_field_and_keeps_the_kind() -> None:
    with pytest.raises(UnsupportedContentError) as raised, fields.named(lambda path: "/".join(map(str, path))):
        with fields.within("a", 0):
            fields.refuse("no such thing", "b", kind=UnsupportedContentError)
    assert raised.value.message == "a/0/b: no such thing"
    assert raised.value.details == {"param": "a/0/b"}


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("anthropic", "messages.1.content.0"),
        ("openai_chat", "messages[1].content[0]"),
        ("openai_responses", "input[1].content[0]"),
    ],
)
def test_each_dialect_has_its_clients_notation(name: str, at: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": [{"type": "text", "text": 5}]}]
    body = {"model": "m", "max_tokens": 1, "messages": messages, "input": messages}
    with pytest.raises(InvalidRequestError) as raised:
        DIALECTS[name].parse_request(body, {}, request_id="r")
    assert raised.value.details["param"] == f"{at}.text"
    assert raised.value.message.startswith(f"{at}.text: ")
