"""`/v1/conversations`: made, shown, changed and forgotten, and so are their items."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.dialects.fields import body_object
from gateway.dialects.fields import named as told_as
from gateway.dialects.openai.metadata import parse_metadata
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai_responses import conversations
from gateway.http.replies import read_body, send_json
from gateway.intake.json_text import parse_json
from gateway.kept.store import AnswerStore, Kept
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from shared.errors import AnswerNotFoundError, InvalidRequestError, MethodNotAllowedError

_ITEMS: Final = "items"
_TOO_LARGE: Final = "the conversation is too large to be kept"


class Conversations:
    """Makes them. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        conversation_id = f"{conversations.PREFIX}{secrets.token_hex(16)}"
        with told_as(in_brackets):
            made, items = conversations.parse_made(body, conversation_id, int(time.time()))
        kept = Kept(answer=made, items=conversations.with_ids(items, secrets.token_hex(12)))
        if not await self._store.put(holder_of(scope).tenant, kept):
            raise InvalidRequestError(_TOO_LARGE, param="items")
        await send_json(send, 200, made)


class Conversation:
    """One of them, and its items. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store: AnswerStore = parts.answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        conversation_id, _, rest = scope["path_params"]["id"].partition("/")
        tenant, method = holder_of(scope).tenant, "GET" if scope["method"] == "HEAD" else scope["method"]
        kept = await get(self._store, tenant, conversation_id)
        part, _, item_id = rest.partition("/")
        if part not in ("", _ITEMS):
            raise AnswerNotFoundError(f"a conversation has {_ITEMS}, and no {part[:100]!r}")
        if item_id:
            answer = await self._item(method, tenant, kept, item_id)
        elif part:
            answer = await self._items(method, tenant, kept, receive, QueryParams(scope["query_string"]))
        else:
            answer = await self._whole(method, tenant, kept, receive)
        await send_json(send, 200, answer)

    async def _whole(self, method: str, tenant: str, kept: Kept, receive: Receive) -> dict[str, Any]:
        if method == "DELETE":
            await self._store.delete(tenant, str(kept.answer["id"]))
            return conversations.render_deleted(str(kept.answer["id"]))
        if method == "POST":
            body = await _body(receive)
            with told_as(in_brackets):
                metadata = parse_metadata(body.get("metadata"), "metadata") or {}
            kept = replace(kept, answer={**kept.answer, "metadata": metadata})
            await self._store.change(tenant, kept)
        return dict(kept.answer)

    async def _items(
        self, method: str, tenant: str, kept: Kept, receive: Receive, query: Mapping[str, str]
    ) -> dict[str, Any]:
        if method == "GET":
            return conversations.render_listed(kept.items, query)
        if method != "POST":
            raise MethodNotAllowedError(f"{method} is not allowed on /{_ITEMS}", allow="GET, HEAD, POST")
        body = await _body(receive)
        with told_as(in_brackets):
            more = conversations.with_ids(conversations.parse_items(body), secrets.token_hex(12))
        await grow(self._store, tenant, kept, more)
        return conversations.render_listed(more, {"order": "asc", "limit": "100"})

    async def _item(self, method: str, tenant: str, kept: Kept, item_id: str) -> dict[str, Any]:
        found = conversations.find(kept.items, item_id)
        if method == "GET":
            return found
        if method != "DELETE":
            raise MethodNotAllowedError(f"{method} is not allowed on an item", allow="GET, HEAD, DELETE")
        left = [item for item in kept.items if item is not found]
        await self._store.change(tenant, replace(kept, items=left))
        return dict(kept.answer)


async def get(store: AnswerStore, tenant: str, conversation_id: str) -> Kept:
    """Raises `AnswerNotFoundError`, also for what is kept and no conversation."""
    kept = await store.get(tenant, conversation_id)
    if not conversations.is_conversation(kept.answer):
        raise AnswerNotFoundError(f"{conversation_id[:100]} is no conversation")
    return kept


async def grow(store: AnswerStore, tenant: str, kept: Kept, more: list[dict[str, Any]]) -> None:
    """Behind what is there; it is kept for a day from now. Raises `InvalidRequestError` where it has no room."""
    grown = replace(kept, items=conversations.added(kept.items, more))
    if not await store.change(tenant, grown, is_renewed=True):
        raise InvalidRequestError(_TOO_LARGE, param="items")


async def _body(receive: Receive) -> Mapping[str, Any]:
    """An empty one says nothing."""
    data = (await read_body(receive)).joined()
    return body_object(parse_json(data))[0] if data.strip() else {}
