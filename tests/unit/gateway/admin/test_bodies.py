"""What the console's API is sent: a field that nothing reads is no silence about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gateway.admin import bodies
from shared.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("parse", "body", "field", "said"),
    [
        (bodies.parse_key, {"name": "anna", "quota": {"requests_per_minute": 5}}, "quota", "requests_per_minute"),
        (bodies.parse_key, {"name": "anna", "model": ["qwen"]}, "model", "did you mean models?"),
        (bodies.parse_key, {"name": "anna", "class": "batch"}, "class", "ceiling"),
        (bodies.parse_speed, {"model": "qwen", "chek": True}, "chek", "did you mean check?"),
        (bodies.parse_pull, {"model": "a/b", "quantisation": "Q4"}, "quantisation", "did you mean quantization?"),
        (bodies.parse_model_order, {"model": "qwen", "action": "load", "copies": 2}, "copies", "model, action"),
        (bodies.parse_search, {"search": "qwen", "sort": "size"}, "sort", "search"),
        (bodies.parse_drop, {"session": "1f0a3b5c", "host": "mini"}, "host", "session"),
        (bodies.parse_text, {"txt": "{}"}, "txt", "did you mean text?"),
        (bodies.parse_session, {"key": "k", "role": "admin"}, "role", "key"),
    ],
)
def test_a_field_that_nothing_reads_is_refused_with_its_name(
    parse: Callable[[Mapping[str, Any]], object], body: Mapping[str, Any], field: str, said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"`{field}` is not read here") as refused:
        parse(body)
    assert (refused.value.details["param"], said in str(refused.value)) == (field, True), refused.value


def test_every_field_of_a_key_is_read() -> None:
    wish = bodies.parse_key(
        {"name": "anna", "role": "viewer", "tenant": "house", "models": ["q*"], "ceiling": "batch", "expires": "3d"}
        | {"requests_per_minute": 1, "tokens_per_minute": 2, "tokens_per_day": 3}
    )
    assert (wish.role, wish.tenant, tuple(wish.models), wish.ceiling) == ("viewer", "house", ("q*",), "batch")
    assert (wish.expires, wish.quota.requests_per_minute, wish.quota.tokens_per_day) == ("3d", 1, 3)
