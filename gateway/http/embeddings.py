"""`/v1/embeddings` and `/v1/rerank`: body -> work for a worker that makes vectors -> answer. Many inputs go a part at a
time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from gateway.dialects.fields import body_object, named
from gateway.dialects.openai import embeddings as shape
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.priority import asked_priority
from gateway.http.client import reading_of
from gateway.http.endpoints import PATIENCE_S
from gateway.http.replies import ClientDisconnectedError, headers_of, read_body, request_id_of, send_json
from gateway.intake.json_text import parse_json
from gateway.keys.charge import BYTES_PER_TOKEN
from gateway.keys.headers import rate_headers
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from gateway.trace.spans import traced_beside
from shared.events import Embedded, EventOrder, Failed, Usage
from shared.request import GenerateRequest
from shared.work import KINDS, Embed, pack_ids

_AT_ONCE: Final = 64  # inputs
_BYTES_PER_ID: Final = 4  # of `pack_ids`


@dataclass(slots=True)
class _Made:
    """So far."""

    vectors: list[bytes] = field(default_factory=list)
    input_tokens: int = 0


class _Embedding:
    def __init__(self, parts: Parts) -> None:
        self._intake = parts.intake
        self._dispatcher = parts.dispatcher
        self._quotas = parts.quotas
        self._usage = parts.usage
        self._metrics = parts.metrics
        self._tracer = parts.tracer

    async def make(self, scope: Scope, receive: Receive, model: str, work: Embed) -> _Made:
        """Raises the error of whoever makes them, `PermissionDeniedError` for a model that the key may not use, what
        `Quotas.admitted` raises, and `ClientDisconnectedError`."""
        holder = holder_of(scope)
        with named(in_brackets):
            priority = asked_priority(headers_of(scope)) or "interactive"
        named_request = replace(work.request, model=model, priority=priority)
        request = await self._intake.take(holder.own(named_request), holder.limit)
        holder.check_model(request.model, asked=model)
        scope["state"]["model"] = request.model
        made = _Made()
        charged = self._quotas.admitted(holder, request.id, tokens=_most_tokens(work), used=lambda: made.input_tokens)
        async with charged as allowance:
            scope["state"]["rate_headers"] = rate_headers(allowance, time.time()) if allowance else {}
            try:
                traced_as = traced_beside(self._tracer, scope, request, "embeddings", lambda: made.input_tokens)
                with traced_as as traced:
                    await self._fill(made, receive, replace(work, request=traced))
            finally:
                if made.vectors:
                    usage = Usage(input_tokens=made.input_tokens)
                    self._usage.note(holder.name, request.model, usage)
                    self._metrics.used(holder.name, usage)
        return made

    async def _fill(self, made: _Made, receive: Receive, work: Embed) -> None:
        request = work.request
        for number, part in enumerate(_parts(work)):
            one = replace(part, request=replace(request, id=f"{request.id}_e{number}" if number else request.id))
            done = await self._part(receive, one)
            made.vectors += done.vectors
            made.input_tokens += done.input_tokens

    async def _part(self, receive: Receive, work: Embed) -> Embedded:
        dispatch = await self._dispatcher.admit_embed(work)
        order = EventOrder(KINDS[Embed].begins)
        async with self._dispatcher.joined(dispatch) as reader, reading_of(receive, [reader]) as reading:
            while not reading.is_abandoned:
                for _, event in await reading.wait(PATIENCE_S):
                    order.feed(event)
                    if isinstance(event, Embedded):
                        return event
                    if isinstance(event, Failed):
                        raise event.error()
        raise ClientDisconnectedError


def _parts(work: Embed) -> Iterator[Embed]:
    for start in range(0, max(len(work.texts), len(work.rows)), _AT_ONCE):
        end = start + _AT_ONCE
        yield replace(work, texts=work.texts[start:end], rows=work.rows[start:end])


def _most_tokens(work: Embed) -> int:
    """About; of what was computed each text is counted when it is."""
    text_bytes = sum(map(len, work.texts)) + len(work.query) * len(work.texts)
    return text_bytes // BYTES_PER_TOKEN + sum(len(row) for row in work.rows) // _BYTES_PER_ID


def _request(scope: Scope) -> GenerateRequest:
    return GenerateRequest(id=request_id_of(scope), model="", messages=())


async def _body(receive: Receive) -> Any:
    body, _ = body_object(parse_json((await read_body(receive)).joined()))
    return body


class Embeddings(_Embedding):
    """An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        with named(in_brackets):
            asked = shape.parse_vectors(body)
        work = Embed(request=_request(scope), texts=asked.texts, rows=tuple(map(pack_ids, asked.tokens)))
        made = await self.make(scope, receive, asked.model, work)
        with named(in_brackets):
            answer = shape.render_vectors(asked, made.vectors, made.input_tokens)
        await send_json(send, 200, answer)


class Rerank(_Embedding):
    """An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        with named(in_brackets):
            asked = shape.parse_ranking(body)
        work = Embed(request=_request(scope), texts=asked.documents, query=asked.query)
        made = await self.make(scope, receive, asked.model, work)
        answer = shape.render_ranking(asked, made.vectors, made.input_tokens, request_id=request_id_of(scope))
        await send_json(send, 200, answer)
