"""Responses that are kept: what is stored of a request, how one goes on, and how both are shown again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.dialects.openai.paging import render_page
from shared.errors import InvalidRequestError
from shared.exact import dump_bytes, load_bytes

PREVIOUS: Final = "previous_response_id"
CONTINUED: Final = "continued_response_id"  # in its place where the conversation has been put in


def earlier(body: bytes) -> str:
    """Few bodies name an earlier answer, and they are short: only those are read here."""
    if PREVIOUS.encode() not in body:
        return ""
    value = read_object(body).get(PREVIOUS)
    if value is None:
        return ""
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{PREVIOUS}: Input should be the id of a response", param=PREVIOUS)
    return value


def continued(body: bytes, answer: Mapping[str, Any], items: Sequence[Any]) -> bytes:
    """Instructions are not carried over, as the API has it."""
    read = read_object(body)
    own = read.get("input")
    new = own if isinstance(own, list) else [] if own is None else [item_of(own)]
    rest = {name: value for name, value in read.items() if name != PREVIOUS}
    return dump_bytes({**rest, CONTINUED: read[PREVIOUS], "input": [*items, *answer.get("output", ()), *new]})


def read_object(body: bytes) -> dict[str, Any]:
    """Empty for what is none: whoever reads it next says what is wrong."""
    try:
        value = load_bytes(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def kept_items(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """The conversation as items, whatever form its client gave it."""
    value = body.get("input")
    return tuple(value) if isinstance(value, list) else (item_of(value),)


def item_of(text: Any) -> Any:
    content = [{"type": "input_text", "text": text}] if isinstance(text, str) else text
    return {"type": "message", "role": "user", "content": content}


def render_deleted(answer_id: str) -> dict[str, Any]:
    return {"id": answer_id, "object": "response", "deleted": True}


def render_items(items: Sequence[Any], answer_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """The latest first unless `order` is asc; each has an id, also where its client gave none."""
    shown = [_with_id(item, f"item_{answer_id}_{number}") for number, item in enumerate(items)]
    return render_page(shown, query, order="desc")


def _with_id(item: Any, item_id: str) -> dict[str, Any]:
    whole = item if isinstance(item, dict) else item_of(item)
    return {"type": "message", **whole, "id": whole.get("id") or item_id}
