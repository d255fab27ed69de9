"""Batches of both vendors: made, looked at, cancelled, and their results."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.batches.ledger import Ledger
from gateway.batches.store import BatchStore
from gateway.dialects.anthropic import batches as anthropic
from gateway.dialects.batch_values import Batch, Item
from gateway.dialects.fields import body_object, named
from gateway.dialects.openai import batches as openai
from gateway.dialects.openai.notation import in_brackets
from gateway.http.replies import header, read_body, send_json
from gateway.intake.json_text import parse_json
from gateway.keys.holder import Holder, holder_of
from gateway.parts import Parts
from shared.errors import InvalidRequestError, MethodNotAllowedError

_CANCEL: Final = "/cancel"
_RESULTS: Final = "/results"
_CHUNK_LINES: Final = 200
_MOST_VALUES: Final = 2_000_000  # of a body of many requests


class OpenAIBatches:
    """`/v1/batches`: one more, or a list. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        holder = holder_of(scope)
        if scope["method"] == "POST":
            await send_json(send, 200, openai.render_batch(await self._make(receive, holder)))
            return
        found = await self._store.call(Ledger.batches, "openai", holder.tenant)
        await send_json(send, 200, openai.render_batches(found, QueryParams(scope["query_string"])))

    async def _make(self, receive: Receive, holder: Holder) -> Batch:
        body, _ = body_object(parse_json((await read_body(receive)).joined()))
        with named(in_brackets):
            asked = openai.parse_batch(body)
        content = await self._store.call(Ledger.content, asked.input_file, holder.tenant)
        items, faults = await asyncio.to_thread(openai.parse_lines, content, asked.endpoint)
        now_s = time.time()
        note = {"metadata": asked.metadata} | ({"faults": faults} if faults else {})
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            vendor="openai",
            path=asked.endpoint,
            made_s=now_s,
            expires_s=now_s + openai.WINDOW_S,
            ended_s=now_s if faults else None,
            input_file=asked.input_file,
            holder=holder.name,
            tenant=holder.tenant,
            note=note,
        )
        return await _added(self._store, batch, items)


async def _added(store: BatchStore, batch: Batch, items: list[Any]) -> Batch:
    made = await store.call(Ledger.add_batch, batch, items)
    store.woken.set()
    return made


async def _cancelled(store: BatchStore, batch_id: str, vendor: str, tenant: str) -> Batch:
    """What is cancelled already stays as it is."""
    batch = await store.call(Ledger.batch, batch_id, vendor, tenant)
    if batch.ended_s is not None and batch.cancelled_s is None:
        raise InvalidRequestError(f"{batch_id} has ended: it cannot be cancelled any more")
    await store.call(Ledger.cancel, batch_id, time.time())
    store.woken.set()
    return await store.call(Ledger.batch, batch_id, vendor, tenant)


class OpenAIBatch:
    """One of them, and its cancellation. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path_params"]["id"]
        tenant = holder_of(scope).tenant
        if scope["method"] == "POST":
            if not path.endswith(_CANCEL):
                raise MethodNotAllowedError("POST is allowed on /cancel alone", allow="GET, HEAD")
            batch = await _cancelled(self._store, path.removesuffix(_CANCEL), "openai", tenant)
        else:
            batch = await self._store.call(Ledger.batch, path, "openai", tenant)
        await send_json(send, 200, openai.render_batch(batch))


class MessageBatches:
    """`/v1/messages/batches`: one more, or a list. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        holder = holder_of(scope)
        if scope["method"] == "POST":
            batch = await self._make(receive, holder)
            await send_json(send, 200, anthropic.render_batch(batch, _results_url(scope, batch.id)))
            return
        found = await self._store.call(Ledger.batches, "anthropic", holder.tenant)
        urls = {batch.id: _results_url(scope, batch.id) for batch in found}
        await send_json(send, 200, anthropic.render_batches(found, QueryParams(scope["query_string"]), urls))

    async def _make(self, receive: Receive, holder: Holder) -> Batch:
        data = (await read_body(receive, most_values=_MOST_VALUES)).joined()
        items = await asyncio.to_thread(_message_items, data)  # others are served meanwhile
        now_s = time.time()
        batch = Batch(
            id=f"msgbatch_{secrets.token_hex(12)}",
            vendor="anthropic",
            path=anthropic.PATH,
            made_s=now_s,
            expires_s=now_s + anthropic.WINDOW_S,
            holder=holder.name,
            tenant=holder.tenant,
        )
        return await _added(self._store, batch, items)


def _message_items(data: bytes) -> list[Item]:
    """Raises `InvalidRequestError`."""
    body, _ = body_object(parse_json(data))
    with named(lambda path: ".".join(map(str, path))):
        return anthropic.parse_batch(body)


class MessageBatch:
    """One of them, its cancellation, its results and its end. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path_params"]["id"]
        tenant = holder_of(scope).tenant
        if path.endswith(_RESULTS):
            await self._send_results(path.removesuffix(_RESULTS), tenant, send)
        elif scope["method"] == "POST":
            if not path.endswith(_CANCEL):
                raise MethodNotAllowedError("POST is allowed on /cancel alone", allow="GET, HEAD, DELETE")
            batch = await _cancelled(self._store, path.removesuffix(_CANCEL), "anthropic", tenant)
            await send_json(send, 200, anthropic.render_batch(batch, _results_url(scope, batch.id)))
        elif scope["method"] == "DELETE":
            await self._delete(path, tenant)
            await send_json(send, 200, anthropic.render_deleted(path))
        else:
            batch = await self._store.call(Ledger.batch, path, "anthropic", tenant)
            await send_json(send, 200, anthropic.render_batch(batch, _results_url(scope, batch.id)))

    async def _delete(self, batch_id: str, tenant: str) -> None:
        batch = await self._store.call(Ledger.batch, batch_id, "anthropic", tenant)
        if batch.ended_s is None:
            raise InvalidRequestError(f"{batch_id} is in progress: cancel it before it is deleted")
        await self._store.call(Ledger.delete_batch, batch_id)

    async def _send_results(self, batch_id: str, tenant: str, send: Send) -> None:
        """As lines, a few at a time: there may be gigabytes of them."""
        batch = await self._store.call(Ledger.batch, batch_id, "anthropic", tenant)
        if batch.ended_s is None:
            raise InvalidRequestError(f"{batch_id} has no results yet: it is in progress")
        lines = await self._store.call(_lines_of, batch_id)
        headers = [(b"content-type", b"application/x-jsonl")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while chunk := await self._store.call(_next_lines, lines):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _lines_of(ledger: Ledger, batch_id: str) -> Iterator[bytes]:
    return anthropic.render_lines(ledger.ended(batch_id))


def _next_lines(ledger: Ledger, lines: Iterator[bytes]) -> bytes:
    return b"".join(itertools.islice(lines, _CHUNK_LINES))


def _results_url(scope: Scope, batch_id: str) -> str:
    """Where its client reaches it: by the host and the path that it asked at."""
    host = header(scope, b"host") or "localhost"
    scheme = header(scope, b"x-forwarded-proto") or scope.get("scheme", "http")
    base = "/anthropic" if scope["path"].startswith("/anthropic/") else ""
    return f"{scheme}://{host}{base}/v1/messages/batches/{batch_id}{_RESULTS}"
