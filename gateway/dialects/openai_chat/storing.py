"""Stored completions, as the API shows them: one, its messages, and lists of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.dialects.openai.paging import render_page
from gateway.dialects.openai_chat.schema import COMPLETION_PREFIX

_METADATA = "metadata["


def is_completion(answer_id: str) -> bool:
    """Other kinds of answers are stored beside them."""
    return answer_id.startswith(COMPLETION_PREFIX)


def render_list(answers: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The oldest first unless `order` is desc; only of a `model` and with the `metadata[key]` that the query names.
    `answers` come with the latest first. Raises `InvalidRequestError`."""
    found = [answer for answer in reversed(answers) if _matches(answer, query)]
    return render_page(found, query, order="asc")


def _matches(answer: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    wanted = {name[len(_METADATA) : -1]: text for name, text in query.items() if name.startswith(_METADATA)}
    written = answer.get("metadata") or {}
    is_of_model = not query.get("model") or answer.get("model") == query["model"]
    return is_of_model and all(written.get(name) == text for name, text in wanted.items())


def render_messages(messages: Sequence[Any], answer_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """The oldest first unless `order` is desc; each has an id. Raises `InvalidRequestError`."""
    shown = [_message(message, f"{answer_id}-{number}") for number, message in enumerate(messages)]
    return render_page(shown, query, order="asc")


def _message(message: Any, message_id: str) -> dict[str, Any]:
    given = message if isinstance(message, dict) else {"role": "user", "content": message}
    content = given.get("content")
    parts = content if isinstance(content, list) else None
    return {**given, "id": message_id, "content": None if parts else content, "content_parts": parts}


def render_deleted(answer_id: str) -> dict[str, Any]:
    return {"id": answer_id, "object": "chat.completion.deleted", "deleted": True}
