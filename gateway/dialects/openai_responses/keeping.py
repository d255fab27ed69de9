"""Responses that are kept: what is stored of a request, how one goes on, and how both are shown again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.dialects.openai.paging import render_page
from shared.errors import InvalidRequestError
from shared.exact import dump_bytes, load_bytes

PREVIOUS: Final = "previous_response_id"
CONVERSATION: Final = "conversation"
CONTINUED: Final = "continued_response_id"  # in its place where the conversation has been put in
CONVERSED: Final = "continued_conversation_id"


def earlier(body: bytes) -> str:
    """Few bodies name an earlier answer or a conversation, and they are short: only those are read here."""
    if PREVIOUS.encode() not in body and f'"{CONVERSATION}"'.encode() not in body:
        return ""
    read = glance(body)
    conversation = read.get(CONVERSATION)
    if conversation is None:
        return _id_of(read.get(PREVIOUS), PREVIOUS, "the id of a response")
    if read.get(PREVIOUS) is not None:
        raise InvalidRequestError(f"{CONVERSATION}: cannot be used together with {PREVIOUS}", param=CONVERSATION)
    given = conversation.get("id") if isinstance(conversation, dict) else conversation
    return _id_of(given or 0, CONVERSATION, "the id of a conversation")


def _id_of(value: Any, name: str, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{name}: Input should be {what}", param=name)
    return value


def continued(body: bytes, answer: Mapping[str, Any], items: Sequence[Any]) -> bytes:
    """Instructions are not carried over, as the API has it."""
    read = read_object(body)
    own = read.get("input")
    new = own if isinstance(own, list) else [] if own is None else [item_of(own)]
    rest = {name: value for name, value in read.items() if name not in (PREVIOUS, CONVERSATION)}
    from_what = {CONVERSED: answer["id"]} if read.get(CONVERSATION) else {CONTINUED: answer["id"]}
    return dump_bytes({**rest, **from_what, "input": [*items, *answer.get("output", ()), *new]})


def read_object(body: bytes) -> dict[str, Any]:
    """Empty for what is none: whoever reads it next says what is wrong."""
    try:
        value = load_bytes(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def glance(body: bytes) -> dict[str, Any]:
    """As `read_object`, for who writes nothing of it down: to look for exact numbers takes fifty times as long."""
    try:
        value = orjson.loads(body)
    except ValueError:
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
