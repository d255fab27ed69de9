"""Numbers that a field cannot have are refused by the field's own name, in every dialect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.dialects.registry import DIALECTS
from shared.errors import InvalidRequestError

_NO_NUMBERS = ("true", '"5"', "[]", "{}")
_NO_WHOLES = (*_NO_NUMBERS, "1.5", "18446744073709551616", "-9223372036854775809")
_FAR = ("9223372036854775808", "18446744073709551616", "-9223372036854775809")

# What each field may not be; seeds take any 64 bits, and -1 means off or no limit where other servers' clients say so.
_WHOLE = {
    "top_k": (*_NO_WHOLES, "-2", _FAR[0]),
    "seed": _NO_WHOLES,
}
_REAL = {
    "temperature": (*_NO_NUMBERS, *_FAR, "-1", "2.1"),
    "top_p": (*_NO_NUMBERS, *_FAR, "-1", "1.5"),
    "min_p": (*_NO_NUMBERS, *_FAR, "-1", "1.5"),
    "repetition_penalty": (*_NO_NUMBERS, *_FAR, "-1", "0"),
    "presence_penalty": (*_NO_NUMBERS, *_FAR, "-2.1"),
    "frequency_penalty": (*_NO_NUMBERS, *_FAR, "2.1"),
}
_COUNT = (*_NO_WHOLES, "0", "-1", _FAR[0])
_BUDGET = (*_NO_WHOLES, "-2", _FAR[0])
_OWN = {
    "anthropic": {"max_tokens": (*_NO_WHOLES, "-1", _FAR[0]), "thinking.budget_tokens": _COUNT},
    "openai_chat": {
        "max_tokens": (*_NO_WHOLES, "0", "-2", _FAR[0]),
        "max_completion_tokens": (*_NO_WHOLES, "0", "-2", _FAR[0]),
        "n": (*_COUNT, "33"),
        "top_logprobs": (*_NO_WHOLES, "-1", "21", _FAR[0]),
        "thinking_budget": _BUDGET,
        "thinking_token_budget": _BUDGET,
        "reasoning.max_tokens": _BUDGET,
    },
    "openai_responses": {
        "max_output_tokens": _COUNT,
        "top_logprobs": (*_NO_WHOLES, "-1", "21", _FAR[0]),
        "thinking_budget": _BUDGET,
        "reasoning.max_tokens": _BUDGET,
    },
}
_LEAST: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]},
    "openai_chat": {"model": "m", "messages": [{"role": "user", "content": "x"}], "logprobs": True},
    "openai_responses": {"model": "m", "input": "x"},
}


def _cases() -> Iterator[tuple[str, str, str]]:
    for dialect, own in _OWN.items():
        for name, values in {**_WHOLE, **_REAL, **own}.items():
            yield from ((dialect, name, value) for value in values)


def body_with(dialect: str, name: str, value: str) -> Any:
    """As its client's JSON says it."""
    *outer, last = name.split(".")
    body = inner = orjson.loads(orjson.dumps(_LEAST[dialect]))
    for key in outer:
        inner = inner.setdefault(key, {"type": "enabled"} if key == "thinking" else {})
    inner[last] = "VALUE"
    return orjson.loads(orjson.dumps(body).replace(b'"VALUE"', value.encode()))


@pytest.mark.parametrize(("dialect", "name", "value"), list(_cases()))
def test_a_number_out_of_bounds_is_refused_by_its_fields_name(dialect: str, name: str, value: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        DIALECTS[dialect].parse_request(body_with(dialect, name, value), {}, request_id="r1")
    assert caught.value.message.startswith(f"{name}: Input should be ")
    if dialect != "anthropic":
        assert DIALECTS[dialect].render_error(caught.value, request_id="r1").body["error"]["param"] == name
