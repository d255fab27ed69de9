"""The endpoints that do work, one path for all dialects:

body -> dialect -> canonical -> model -> admission -> job -> events -> dialect.

Streaming and whole answers are rendered from the same events. A stream's HTTP response is opened when the prompt is
known to be good, or after a short grace, so that early failures are real HTTP statuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from gateway.dialects.base import CountingDialect, Dialect, Parsed, RenderContext, StreamRenderer
from gateway.dispatch.choices import ChoiceReaders, requests_of
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.lookups import text_bytes_of
from gateway.dispatch.readers import EventReader
from gateway.dispatch.runs import Repeat
from gateway.http.attached import with_files
from gateway.http.client import Client, client_of, reading_of
from gateway.http.fingerprint import fingerprint_of
from gateway.http.idempotency import note_repeat, repeat_of
from gateway.http.kept import keep, with_earlier
from gateway.http.relaying import OPENS_WITHIN_S, answered, headers_among, remember, with_original
from gateway.http.replies import ClientDisconnectedError, header, headers_of, read_body, request_id_of, send_json
from gateway.intake.reading import Asked
from gateway.keys.charge import most_tokens
from gateway.keys.headers import rate_headers
from gateway.keys.holder import holder_of
from gateway.keys.usage import computed_tokens
from gateway.metrics import RequestRecord, outcome_of
from gateway.models.fallbacks import Chain
from gateway.parts import Parts
from gateway.trace.spans import begin_span
from gateway.trace.story import EVERYTHING, Story
from gateway.trace.telling import tell
from shared.errors import GatewayError, InternalError
from shared.events import Counted, Event, EventOrder, Failed, Progress, Started, assemble
from shared.remotes import HOPS_HEADER
from shared.request import GenerateRequest
from shared.work import KINDS, Count

logger = logging.getLogger(__name__)

WARNINGS_HEADER = "x-mlx-gateway-warnings"
WORKER_HEADER = "x-mlx-gateway-worker"
_MOST_DIGITS = 4
_MAX_HEADER = 1000  # characters
_Told = list[tuple[int, Event]]  # choice, event
PATIENCE_S = 3600.0  # between two looks at a request whose client waits without keep-alives

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class _Endpoint:
    """What generating and counting have in common."""

    def __init__(self, parts: Parts, dialect: Dialect) -> None:
        self.settings = parts.settings
        self.reader = parts.reader
        self.intake = parts.intake
        self.dispatcher = parts.dispatcher
        self.fleet = parts.fleet
        self.joining = parts.joining
        self.metrics = parts.metrics
        self.answers = parts.answers
        self.batches = parts.batches
        self.quotas = parts.quotas
        self.usage = parts.usage
        self.dialect = dialect

    async def parse(self, scope: Scope, receive: Receive, *, counting: bool, story: Story | None = None) -> Parsed:
        tenant = holder_of(scope).tenant
        body = await read_body(receive)
        note_repeat(scope, body)
        body = await with_earlier(self.dialect, self.answers, body, tenant)
        body = await with_files(self.batches, body, tenant, max_bytes=self.settings.max_body_bytes)
        remember(scope, self.dialect.name, body, self.fleet.snapshot)
        if story is not None and story.debug >= EVERYTHING:
            story.take_body(body.joined())
        asked = Asked(
            headers=headers_of(scope),
            request_id=request_id_of(scope),
            counting=counting,
            hint=_encoding_hint(scope),
        )
        return await self.reader.read(self.dialect, asked, body)

    async def ruled(self, scope: Scope, parsed: Parsed) -> tuple[Parsed, str]:
        """By what it is it may be another model's; then what its client is told of that."""
        if scope["state"].get("is_exact"):
            return parsed, ""
        asked = parsed.request.model
        rule = await self.intake.ruled(parsed.request, holder_of(scope).limit)
        if rule is None or rule.model == asked:
            return parsed, ""
        told = f"{asked} is answered by {rule.model}: rule {rule.number} of claude_routing.json"
        logger.info("request %s: %s", parsed.request.id, told)
        return _asking(parsed, rule.model, 0), told

    async def _taken(self, scope: Scope, asked: GenerateRequest) -> GenerateRequest:
        """The request as it goes to a worker. Raises the errors of `Intake.take`, and `PermissionDeniedError`."""
        holder = holder_of(scope)
        request = await self.intake.take(holder.own(asked), holder.limit)
        holder.check_model(request.model, asked=asked.model)
        return with_original(scope, request, self.fleet.snapshot)


class Generate(_Endpoint):
    """An answer, streamed or whole. An ASGI application."""

    def __init__(self, parts: Parts, dialect: Dialect, *, name: str = "") -> None:
        super().__init__(parts, dialect)
        self._name = name or dialect.name
        self._traces = parts.traces
        self._tracer = parts.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(scope["state"]["started_s"])
        story = Story(id=request_id_of(scope), route=self._name, debug=self.settings.debug, record=record)
        story.span = begin_span(self._tracer, scope, record.started_s)
        try:
            await self._serve(story, scope, receive, send)
        except GatewayError as error:
            story.outcome, story.error = outcome_of(error), error
            raise
        except (ClientDisconnectedError, asyncio.CancelledError):  # the latter of who asks from in here: of a batch
            story.outcome = "cancelled"
            raise
        finally:
            scope["state"]["is_told"] = story.request is not None
            tell(story, self._traces)

    async def _serve(self, story: Story, scope: Scope, receive: Receive, send: Send) -> None:
        record = story.record
        holder = holder_of(scope)
        parsed = await self.parse(scope, receive, counting=False, story=story)
        traced = replace(parsed.request, hops=_hops(scope), traceparent=story.span.traceparent)
        parsed = replace(parsed, request=traced)
        story.parsed = parsed = replace(parsed, others=tuple(map(holder.own, parsed.others)))
        record.warnings = parsed.warnings
        parsed_s = record.note_stage("parse", record.started_s)
        parsed, ruled = await self.ruled(scope, parsed)
        record.warnings = (*record.warnings, *filter(None, (ruled,)))
        chain = await self._chain(scope, parsed.request.model)
        if parsed.request.model not in chain.names:
            told = f"{parsed.request.model} is passed over: it did not answer a moment ago"
            record.warnings = (*record.warnings, told)
        for number, name in enumerate(chain):
            try:
                await self._serve_by(_asking(parsed, name, number), story, parsed_s, scope, receive, send)
            except GatewayError as error:
                if not chain.goes_on(name, error):
                    raise
                record.warnings = (*record.warnings, f"{name} did not answer: {error.code}")
                logger.warning("request %s: %s does not answer, another is asked: %s", story.id, name, error)
            else:
                chain.worked(name)
                return

    async def _chain(self, scope: Scope, model: str) -> Chain:
        """Who is asked, one after another; where it is `is_exact`, nobody else than the model."""
        if scope["state"].get("is_exact"):
            return self.intake.alone(model)
        return await self.intake.chain(model, holder_of(scope).limit)

    async def _serve_by(
        self, parsed: Parsed, story: Story, parsed_s: float, scope: Scope, receive: Receive, send: Send
    ) -> None:
        record, holder = story.record, holder_of(scope)
        story.request = request = await self._taken(scope, parsed.request)
        parsed = replace(parsed, others=tuple([await self._taken(scope, other) for other in parsed.others]))
        if request.original:
            parsed, record.warnings = answered(scope, parsed), ()
        scope["state"]["model"] = request.model
        record.spent.answers, record.spent.prompt_bytes = parsed.answers, text_bytes_of(request)
        charged = self.quotas.admitted(
            holder,
            request.id,
            tokens=most_tokens(request) * parsed.answers,
            used=lambda: computed_tokens(record.charged),
            is_again=request.id != request_id_of(scope),
        )
        async with charged as allowance:
            scope["state"]["rate_headers"] = rate_headers(allowance, time.time()) if allowance else {}
            try:
                await self._answer(story, parsed, parsed_s, scope, receive, send)
            finally:
                if story.dispatch is not None and story.dispatch.request is request:  # else it joined one that counts
                    self.usage.note(holder.name, request.model, record.charged)
                    self.metrics.used(holder.name, record.charged)

    async def _answer(
        self, story: Story, parsed: Parsed, parsed_s: float, scope: Scope, receive: Receive, send: Send
    ) -> None:
        record, request = story.record, story.request
        assert request is not None
        story.dispatch = first = await self._admitted(request, parsed, repeat_of(scope))
        record.note_stage("route", parsed_s)
        self.metrics.inflight.inc()
        try:
            async with contextlib.AsyncExitStack() as leaving:
                client = await leaving.enter_async_context(client_of(receive))
                readers = await self._join(leaving, client, first, parsed, record)
                reading = await leaving.enter_async_context(client.reading(readers))
                answer = _Answer(self, parsed, first, reading, story, send)
                story.outcome = await (answer.stream_it() if parsed.stream else answer.send_whole())
        except GatewayError as error:
            story.outcome = outcome_of(error)
            raise
        except asyncio.CancelledError:
            story.outcome = "cancelled"
            raise
        finally:
            self.metrics.inflight.dec()
            scope["state"]["outcome"] = story.outcome
            if first.request is request:
                self.metrics.began(request.model, request.priority, record)
                story.predicted = self.dispatcher.note_end(
                    first, ran_s=record.ran_s, first_token_s=record.first_token_s, usage=record.usage
                )
        if story.outcome == "ok" and first.request is request:
            self.metrics.finished(request.model, record)
            self.dispatcher.note_answer(request.model)

    async def _admitted(self, request: GenerateRequest, parsed: Parsed, repeat: Repeat | None) -> Dispatch:
        """What is under way already, or a new one. (Choices left to chance are not each other's repetition.)"""
        is_alone = parsed.answers == 1
        if repeat is not None and is_alone:
            joined = await self.joining.join(request, repeat)
            if joined is not None:
                return joined
        is_repeated = is_alone and (parsed.is_repeatable or repeat is not None)
        return await self.dispatcher.admit(request, is_repeated=is_repeated, is_shared=repeat is not None)

    async def _join(
        self,
        leaving: contextlib.AsyncExitStack,
        client: Client,
        first: Dispatch,
        parsed: Parsed,
        record: RequestRecord,
    ) -> list[EventReader]:
        """A reader for each answer, prompt by prompt, until `leaving` is left; of no more once the client has gone."""
        began_s = time.monotonic()
        readers = [await leaving.enter_async_context(self.dispatcher.joined(first))]
        requests = [first.request, *parsed.others]
        for request in [each for one in requests for each in requests_of(one, parsed.choices)][1:]:
            if client.has_left:
                break
            other = await self.dispatcher.admit(request, is_repeated=False)
            readers.append(await leaving.enter_async_context(self.dispatcher.joined(other)))
        record.note_stage("enqueue", began_s)
        return readers


def _asking(parsed: Parsed, name: str, number: int) -> Parsed:
    """The same of another model. Each asking has an id of its own, for what has ended does not run again."""
    requests = [
        replace(each, model=name, id=f"{each.id}f{number}" if number else each.id)
        for each in (parsed.request, *parsed.others)
    ]
    return replace(parsed, request=requests[0], others=tuple(requests[1:]))


def _hops(scope: Scope) -> int:
    """How many gateways of ours it came through."""
    text = header(scope, HOPS_HEADER.encode())
    return int(text) if text.isdecimal() and len(text) < _MOST_DIGITS else 0


def _encoding_hint(scope: Scope) -> str:
    encoding = header(scope, b"content-encoding")
    return f"; a content-encoding ({encoding[:40]}) is not understood here" if encoding else ""


class _Answer:
    """One request's events on their way to its client. The methods return the outcome for the metrics."""

    def __init__(
        self,
        endpoint: Generate,
        parsed: Parsed,
        dispatch: Dispatch,
        reading: ChoiceReaders,
        story: Story,
        send: Send,
    ) -> None:
        self.settings = endpoint.settings
        self.reply = parsed.reply
        self.dispatch = dispatch
        self.items = parsed.items
        self.answers = endpoint.answers
        self.tenant = dispatch.tenant
        self.reading = reading
        self.record = story.record
        self.shape = story.answer
        self.send = send
        self.is_relayed = bool(dispatch.request.original)
        self.relayed_headers: dict[str, str] = {}
        self.context = RenderContext(
            request_id=dispatch.request_id,
            model=parsed.request.model,
            created_s=dispatch.created_s,
            choices=parsed.answers,
            noop_s=self.settings.noop_s,
            fingerprint=fingerprint_of(dispatch.model),
        )

    async def send_whole(self) -> str:
        """Raises the error of a failed request."""
        told: list[list[Event]] = [[] for _ in range(self.context.choices)]
        while not self.reading.is_over:
            for choice, event in await self._next(PATIENCE_S):
                if isinstance(event, Failed):
                    raise event.error()
                told[choice].append(event)
            if self.reading.is_abandoned:
                return "cancelled"
        answer = self.reply.render([assemble(events) for events in told], self.context)
        await keep(self.answers, self.tenant, answer, self.items)
        await send_json(self.send, 200, answer, headers=self._headers())
        return "ok"

    async def stream_it(self) -> str:
        """Raises the error of a request that failed before its response was opened."""
        told = await self._first_events()
        if self.reading.is_abandoned:
            return "cancelled"
        if told and isinstance(told[-1][1], Failed):
            raise told[-1][1].error()
        renderer = self.reply.stream(self.context)
        warnings = [(name.encode(), text.encode()) for name, text in self._headers().items()]
        await self.send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS + warnings})
        try:
            return await self._relay(renderer, told)
        except Exception:  # any bug in here: the client is told, in the stream that is open already
            logger.exception("request %s: rendering failed", self.context.request_id)
            last = renderer.feed(Failed.of(InternalError("internal error while the answer was rendered")))
            await self._write(last, is_last=True)
            return "internal"

    def _headers(self) -> dict[str, str]:
        """What dialects have no place for: what of the request is not honoured, and who answers it, and why."""
        attempt = self.dispatch.attempt
        worker = attempt.worker or attempt.place.worker
        found = {
            WARNINGS_HEADER: "; ".join(dict.fromkeys(self.record.warnings)),
            WORKER_HEADER: f"{worker}; {attempt.place.reason}" if worker else "",
        }
        return self.relayed_headers | {name: _header_text(text) for name, text in found.items() if text}

    async def _first_events(self) -> _Told:
        """Until the prompt is known to be good or bad, or the grace is over."""
        told: _Told = []
        opens_s = time.monotonic() + (OPENS_WITHIN_S if self.is_relayed else self.settings.stream_grace_s)
        while not self.reading.is_abandoned and not any(_settles(event) for _, event in told):
            left_s = opens_s - time.monotonic()
            if left_s <= 0:
                break
            told += await self._next(left_s)
        return told

    async def _relay(self, renderer: StreamRenderer, told: _Told) -> str:
        if any(isinstance(event, Started) for _, event in told):
            # The opening says more of the usage when it is made from this event than from the progress before it.
            told = [(choice, event) for choice, event in told if not isinstance(event, Progress)]
        data = b"".join([renderer.feed(event, choice) for choice, event in told]) + renderer.start()
        keepalive_s = self.settings.keepalive_s
        wrote_s = spoke_s = time.monotonic()
        while not self.reading.is_over:
            left_s = keepalive_s
            if data:
                await self._write(data, is_last=False)
                wrote_s = time.monotonic()
            else:
                left_s = max(0.0, wrote_s + keepalive_s - time.monotonic())
            told = await self._next(left_s)
            if self.reading.is_abandoned:
                return "cancelled"
            data = b"".join([renderer.feed(event, choice) for choice, event in told])
            if data or any(not isinstance(event, Progress) for _, event in told):
                spoke_s = time.monotonic()
            if not data and time.monotonic() - wrote_s >= keepalive_s:
                data = renderer.keepalive(time.monotonic() - spoke_s)
        # First: who has read the end may go on from it at once.
        await keep(self.answers, self.tenant, getattr(renderer, "answer", None), self.items)
        await self._write(data, is_last=True)
        last = told[-1][1]
        return outcome_of(last.error()) if isinstance(last, Failed) else "ok"

    async def _next(self, timeout_s: float) -> _Told:
        told = await self.reading.wait(timeout_s)
        events = [event for _, event in told]
        self.record.note(events)
        if self.shape is not None:
            self.shape.note(events)
        if self.is_relayed:
            self.relayed_headers |= headers_among(events)
        return told

    async def _write(self, data: bytes, *, is_last: bool) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": not is_last})


def _header_text(text: str) -> str:
    plain = text.encode("ascii", "backslashreplace").decode()
    return "".join(c for c in plain if c.isprintable())[:_MAX_HEADER]


def _settles(event: Event) -> bool:
    return not isinstance(event, Progress) or event.phase == "prefill"


class CountTokens(_Endpoint):
    """Tokens of a prompt, counted by any worker of the model beside its generation. An ASGI application."""

    def __init__(self, parts: Parts, dialect: CountingDialect) -> None:
        super().__init__(parts, dialect)
        self._render_count = dialect.render_count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parsed, _ = await self.ruled(scope, await self.parse(scope, receive, counting=True))
        request = await self._taken(scope, parsed.request)
        scope["state"]["model"] = request.model
        dispatch = await self.dispatcher.admit_count(request)
        async with self.dispatcher.joined(dispatch) as reader, reading_of(receive, [reader]) as reading:
            count = await _counted(reading)
        await send_json(send, 200, self._render_count(count))


async def _counted(reading: ChoiceReaders) -> int:
    """Raises the error of who counts, and `ClientDisconnectedError`."""
    order = EventOrder(KINDS[Count].begins)
    while not reading.is_abandoned:
        for _, event in await reading.wait(PATIENCE_S):
            order.feed(event)
            if isinstance(event, Counted):
                return event.input_tokens
            if isinstance(event, Failed):
                raise event.error()
    raise ClientDisconnectedError
