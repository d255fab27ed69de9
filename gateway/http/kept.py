"""Answers that are kept: put away as they end, gone on from, and asked for again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.dialects.base import Dialect, KeepingDialect
from gateway.dialects.openai_responses import conversations
from gateway.dialects.openai_responses.running import is_unfinished, starting_after
from gateway.dialects.registry import KEEPING_DIALECTS
from gateway.http.conversations import get, grow
from gateway.http.following import Follower
from gateway.http.replies import send_json
from gateway.intake.reader import Body
from gateway.kept.store import AnswerStore, Kept
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from shared.errors import AnswerNotFoundError, GatewayError, InvalidRequestError, MethodNotAllowedError
from shared.exact import SUSPECT

logger = logging.getLogger(__name__)

_BYTES_PER_VALUE = 16  # about: large conversations are read in the helper
_CONVERSATION, _CANCEL = "/input_items", "/cancel"


async def with_earlier(dialect: Dialect, store: AnswerStore, body: Body, tenant: str) -> Body:
    """The body with the conversation that it goes on from. Raises the errors of `AnswerStore.get`."""
    keeping = KEEPING_DIALECTS.get(dialect.name)
    if keeping is None:
        return body
    data = body.joined()
    whole = data
    if answer_id := keeping.earlier(data):
        kept = await store.get(tenant, answer_id)
        if is_unfinished(kept.answer):
            problem = f"{answer_id} has not ended, and cannot be gone on from"
            raise InvalidRequestError(problem, param="previous_response_id")
        whole = keeping.continued(data, kept.answer, kept.items)
    if names := conversations.named(whole):
        whole = conversations.resolved(whole, await _found(store, tenant, whole, names))
    if whole is data:
        return body
    is_exact = body.is_exact or SUSPECT.search(whole) is not None
    return Body(chunks=[whole], values=body.values + len(whole) // _BYTES_PER_VALUE, is_exact=is_exact)


async def _found(store: AnswerStore, tenant: str, body: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Items by their ids: of the body's own conversation, and of responses that are kept."""
    found: dict[str, Any] = {}
    for answer_id in dict.fromkeys(filter(None, map(conversations.kept_with, names))):
        with contextlib.suppress(AnswerNotFoundError):
            kept = await store.get(tenant, answer_id)
            found |= {f"item_{answer_id}_{number}": item for number, item in enumerate(kept.items)}
            found |= {item["id"]: item for item in kept.answer.get("output", ())}
    return conversations.held(body) | found


async def keep(
    store: AnswerStore, tenant: str, answer: Mapping[str, Any] | None, items: tuple[Any, ...] | None
) -> None:
    """An answer that cannot be kept is an answer all the same; who asks for it again hears that it is not there."""
    if answer is None or items is None:
        return
    try:
        await converse(store, tenant, answer, items)
        if answer.get("store") is False:
            return
        is_kept = await store.put(tenant, Kept(answer=answer, items=items))
    except GatewayError as error:
        logger.warning("%s is not kept: %s", answer["id"], error)
        return
    if not is_kept:
        logger.info("%s is not kept: it is too large", answer["id"])


async def converse(store: AnswerStore, tenant: str, answer: Mapping[str, Any], items: Sequence[Any]) -> None:
    """Put what was asked and answered behind the conversation that it belongs to, if any. Raises the errors of
    `gateway.http.conversations.grow`."""
    conversation = answer.get("conversation")
    if not isinstance(conversation, Mapping):
        return
    said = conversations.with_ids([*items, *answer.get("output", ())], str(answer["id"]).removeprefix("resp_"))
    await grow(store, tenant, await get(store, tenant, str(conversation["id"])), said)


class KeptAnswers:
    """`GET` and `DELETE /v1/responses/{id}`, its items, and `cancel`. An ASGI application."""

    def __init__(self, parts: Parts, dialect: KeepingDialect) -> None:
        self._store = parts.answers
        self._follower = Follower(parts)
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path_params"]["id"]
        query = QueryParams(scope["query_string"])
        tenant = holder_of(scope).tenant
        if scope["method"] in ("GET", "HEAD") and query.get("stream") == "true":
            await self._follower.follow(tenant, path, starting_after(query), receive, send)
            return
        await send_json(send, 200, await self._answer(scope["method"], tenant, path, query))

    async def _answer(self, method: str, tenant: str, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        if method == "POST":
            return await self._cancel(tenant, path)
        if method == "DELETE":
            await self._follower.delete(tenant, path)
            return self._dialect.render_deleted(path)
        answer_id = path.removesuffix(_CONVERSATION)
        kept = await self._follower.get(tenant, answer_id)
        if path.endswith(_CONVERSATION):
            return self._dialect.render_items(kept.items, answer_id, query)
        return self._dialect.render_kept(kept.answer)

    async def _cancel(self, tenant: str, path: str) -> dict[str, Any]:
        if not path.endswith(_CANCEL):
            raise MethodNotAllowedError(f"POST is not allowed on /v1/responses/{path}", allow="GET, HEAD, DELETE")
        kept = await self._follower.cancel(tenant, path.removesuffix(_CANCEL))
        return self._dialect.render_kept(kept.answer)
