"""Work with sound, from an ASGI scope to the events that answer it: whose it is, what it costs, what is told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from starlette.types import Receive, Scope

from gateway.dialects.fields import named
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.priority import asked_priority
from gateway.dispatch.choices import ChoiceReaders
from gateway.http.client import reading_of
from gateway.http.replies import ClientDisconnectedError, headers_of, request_id_of
from gateway.keys.headers import rate_headers
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from gateway.trace.spans import traced_beside
from shared.events import Event, EventOrder, Failed, Spoken, Started, Transcribed, Usage, known
from shared.request import GenerateRequest
from shared.work import KINDS, Speak, Transcribe

SoundTask = Transcribe | Speak


@dataclass(slots=True)
class Spent:
    """So far."""

    usage: Usage | None = None

    @property
    def tokens(self) -> int:
        return 0 if self.usage is None else known(self.usage.input_tokens) + known(self.usage.output_tokens)

    def note(self, event: Event) -> None:
        if isinstance(event, Started):
            self.usage = event.usage
        elif isinstance(event, Transcribed | Spoken):
            self.usage = Usage(input_tokens=event.input_tokens, output_tokens=event.output_tokens)


def request_of(scope: Scope, model: str) -> GenerateRequest:
    """The names of what is asked. Raises `InvalidRequestError` for a class that there is not."""
    with named(in_brackets):
        priority = asked_priority(headers_of(scope)) or "interactive"
    return GenerateRequest(id=request_id_of(scope), model=model, messages=(), priority=priority)


class SoundWork:
    def __init__(self, parts: Parts, operation: str) -> None:
        """`operation` is what spans call it."""
        self._operation = operation
        self._intake = parts.intake
        self._dispatcher = parts.dispatcher
        self._quotas = parts.quotas
        self._usage = parts.usage
        self._metrics = parts.metrics
        self._tracer = parts.tracer
        self.keepalive_s = parts.settings.keepalive_s

    @asynccontextmanager
    async def told(
        self, scope: Scope, receive: Receive, work: SoundTask, *, expected_tokens: int, patience_s: float
    ) -> AsyncIterator[AsyncIterator[Event | None]]:
        """What is told of the work until the block is left. Raises `PermissionDeniedError` for a model that the key may
        not use, and what `Intake.take`, `Quotas.admitted` and `Dispatcher.admit_sound` raise."""
        spent = Spent()
        async with self._taken(scope, work, spent, expected_tokens) as taken:
            dispatch = await self._dispatcher.admit_sound(taken)
            async with self._dispatcher.joined(dispatch) as reader, reading_of(receive, [reader]) as reading:
                yield _events(reading, spent, EventOrder(KINDS[type(work)].begins), patience_s)

    @asynccontextmanager
    async def _taken(
        self, scope: Scope, work: SoundTask, spent: Spent, expected_tokens: int
    ) -> AsyncIterator[SoundTask]:
        """The work as it goes to a worker, charged and traced."""
        holder, asked = holder_of(scope), work.request.model
        request = await self._intake.take(holder.own(work.request), holder.limit)
        holder.check_model(request.model, asked=asked)
        scope["state"]["model"] = request.model
        charged = self._quotas.admitted(holder, request.id, tokens=expected_tokens, used=lambda: spent.tokens)
        async with charged as allowance:
            scope["state"]["rate_headers"] = rate_headers(allowance, time.time()) if allowance else {}
            try:
                traced_as = traced_beside(self._tracer, scope, request, self._operation, lambda: spent.tokens)
                with traced_as as traced:
                    yield replace(work, request=traced)
            finally:
                if spent.usage is not None:
                    self._usage.note(holder.name, request.model, spent.usage)
                    self._metrics.used(holder.name, spent.usage)


async def _events(
    reading: ChoiceReaders, spent: Spent, order: EventOrder, patience_s: float
) -> AsyncIterator[Event | None]:
    """As they come; None where none came for so long. Raises the error of a failure, and `ClientDisconnectedError`."""
    while not reading.is_abandoned:
        told = await reading.wait(patience_s)
        if not told and not reading.is_abandoned:
            yield None
        for _, event in told:
            order.feed(event)
            spent.note(event)
            if isinstance(event, Failed):
                raise event.error()
            yield event
    raise ClientDisconnectedError
