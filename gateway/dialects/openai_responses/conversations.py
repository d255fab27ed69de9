"""Conversations that are kept for their clients, and items that a request only names. Pure.

https://platform.openai.com/docs/api-reference/conversations
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.dialects import fields
from gateway.dialects.openai.metadata import parse_metadata
from gateway.dialects.openai.paging import render_page
from gateway.dialects.openai_responses.keeping import glance, item_of, read_object
from shared.errors import AnswerNotFoundError
from shared.exact import dump_bytes

PREFIX: Final = "conv_"
_REFERENCE: Final = "item_reference"
_MOST_ITEMS: Final = 20  # in one request, as the API has it
_OUTPUT_ID: Final = re.compile(r"[a-z]+_(req_[0-9a-f]{24})_\d+")
_INPUT_ID: Final = re.compile(r"item_(resp_req_[0-9a-f]{24})_\d+")


def is_conversation(answer: Mapping[str, Any]) -> bool:
    """Other things are kept beside them."""
    return answer.get("object") == "conversation"


def parse_made(body: Mapping[str, Any], conversation_id: str, made_s: int) -> tuple[dict[str, Any], list[Any]]:
    """The conversation and its first items. Raises `FieldError`."""
    metadata = parse_metadata(body.get("metadata"), "metadata") or {}
    made = {"id": conversation_id, "object": "conversation", "created_at": made_s, "metadata": metadata}
    return made, parse_items(body) if body.get("items") is not None else []


def parse_items(body: Mapping[str, Any]) -> list[Any]:
    """Raises `FieldError`."""
    items = fields.sequence(body.get("items"), "items")
    if len(items) > _MOST_ITEMS:
        fields.refuse(f"Input should have at most {_MOST_ITEMS} items", "items")
    with fields.within("items"):
        return [dict(item) for item in fields.each(items, fields.mapping)]


def with_ids(items: Iterable[Any], prefix: str) -> list[dict[str, Any]]:
    """Each as an item with an id of its own; a message with a status, and its text as a part."""
    found = []
    for number, item in enumerate(items):
        whole = item if isinstance(item, dict) else item_of(item)
        kind = whole.get("type") or "message"
        item_id = whole.get("id") or f"msg_{prefix}_{number}"
        shown = {"status": "completed", **whole, "content": _parts(whole)} if kind == "message" else whole
        found.append({"type": kind, **shown, "id": item_id})
    return found


def _parts(message: Mapping[str, Any]) -> Any:
    content = message.get("content")
    if not isinstance(content, str):
        return content
    if message.get("role") == "assistant":
        return [{"type": "output_text", "text": content, "annotations": []}]
    return [{"type": "input_text", "text": content}]


def added(items: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    """Those that are there already are not added."""
    there = {item.get("id") for item in items if isinstance(item, dict)}
    return [*items, *(item for item in more if item["id"] not in there)]


def render_listed(items: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The latest first unless `order` is asc. Raises `InvalidRequestError`."""
    return render_page(items, query, order="desc")


def find(items: Sequence[Any], item_id: str) -> dict[str, Any]:
    """Raises `AnswerNotFoundError`."""
    for item in items:
        if isinstance(item, dict) and item.get("id") == item_id:
            return item
    raise AnswerNotFoundError(f"there is no item {item_id[:100]!r} in this conversation")


def render_deleted(conversation_id: str) -> dict[str, Any]:
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


def named(body: bytes) -> list[str]:
    """The ids of items that the body names and does not hold."""
    if _REFERENCE.encode() not in body:
        return []
    value = glance(body).get("input")
    return [item["id"] for item in value if _is_reference(item)] if isinstance(value, list) else []


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == _REFERENCE and isinstance(item.get("id"), str)


def held(body: bytes) -> dict[str, Any]:
    """The items that the body does hold, by their ids."""
    items = [item for item in read_object(body)["input"] if isinstance(item, dict) and not _is_reference(item)]
    return {item["id"]: item for item in items if isinstance(item.get("id"), str)}


def kept_with(item_id: str) -> str:
    """The response whose answer or question the item was, by the ids that are given here; empty for another's."""
    if found := _OUTPUT_ID.fullmatch(item_id):
        return f"resp_{found[1]}"
    found = _INPUT_ID.fullmatch(item_id)
    return found[1] if found else ""


def resolved(body: bytes, items: Mapping[str, Any]) -> bytes:
    """With the items in the place of their names; those that are not there stay, and are told to be left out."""
    read = read_object(body)
    whole = [items.get(item["id"], item) if _is_reference(item) else item for item in read["input"]]
    return dump_bytes({**read, "input": whole})
