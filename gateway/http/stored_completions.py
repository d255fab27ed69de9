"""`/v1/chat/completions` for those that are stored: list, retrieve, update, delete, and their messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.dialects.fields import body_object, named
from gateway.dialects.openai.metadata import parse_metadata
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai_chat import storing
from gateway.http.replies import header, read_body, send_json
from gateway.intake.json_text import parse_json
from gateway.kept.store import AnswerStore
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from shared.errors import MethodNotAllowedError, UpgradeRefusedError

_MESSAGES: Final = "/messages"


class StoredCompletions:
    """All of them. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if header(scope, b"upgrade"):  # whoever wants a WebSocket goes on with HTTP on this status
            raise UpgradeRefusedError("/v1/chat/completions is served over HTTP alone", allow="GET, HEAD, POST")
        found = [kept.answer for kept in await self._store.latest(holder_of(scope).tenant)]
        shown = [answer for answer in found if storing.is_completion(str(answer["id"]))]
        await send_json(send, 200, storing.render_list(shown, QueryParams(scope["query_string"])))


class StoredCompletion:
    """One of them. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path_params"]["id"]
        tenant = holder_of(scope).tenant
        query = QueryParams(scope["query_string"])
        match scope["method"]:
            case "POST":
                answer = await self._update(tenant, path, receive)
            case "DELETE":
                await self._store.delete(tenant, path)
                answer = storing.render_deleted(path)
            case _:
                answer = await _shown(self._store, tenant, path, query)
        await send_json(send, 200, answer)

    async def _update(self, tenant: str, answer_id: str, receive: Receive) -> dict[str, Any]:
        """Only what is written on it changes."""
        if answer_id.endswith(_MESSAGES):
            raise MethodNotAllowedError(f"POST is not allowed on {_MESSAGES}, only GET", allow="GET")
        body, _ = body_object(parse_json((await read_body(receive)).joined()))
        with named(in_brackets):
            metadata = parse_metadata(body.get("metadata"), "metadata")
        kept = await self._store.get(tenant, answer_id)
        changed = {**kept.answer, "metadata": metadata}
        await self._store.change(tenant, replace(kept, answer=changed))
        return changed


async def _shown(store: AnswerStore, tenant: str, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    answer_id = path.removesuffix(_MESSAGES)
    kept = await store.get(tenant, answer_id)
    if path.endswith(_MESSAGES):
        return storing.render_messages(kept.items, answer_id, query)
    return dict(kept.answer)
