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
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from gateway.canonical import canonicalise
from gateway.dialects.base import Dialect, Parsed, RenderContext, StreamRenderer
from gateway.dispatch.choices import ChoiceReaders, envelopes_of
from gateway.dispatch.coalescing import may_share
from gateway.dispatch.event_stream import EventReader, EventStream
from gateway.dispatch.placement import choose_queue
from gateway.http.replies import header, read_body, request_id_of, send_json
from gateway.intake.json_text import parse_json
from gateway.metrics import RequestRecord, outcome_of
from gateway.models.sampling import fill_sampling
from gateway.services import Services
from shared import keys
from shared.errors import DeadlineExceededError, GatewayError, InternalError
from shared.events import Event, Failed, Progress, Started, assemble
from shared.request import Envelope, GenerateRequest

logger = logging.getLogger(__name__)

WARNINGS_HEADER = "x-mlx-gateway-warnings"
_MAX_WARNINGS = 1000  # characters
_FIRST_ATTEMPT = 1
_SESSION_HEADER = b"x-claude-code-session-id"
_Told = list[tuple[int, Event]]  # choice, event
_PATIENCE_S = 3600.0  # between two looks at a request whose client waits without keep-alives

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class _Endpoint:
    """What generating and counting have in common."""

    def __init__(self, services: Services, dialect: Dialect, *, route: str) -> None:
        self.services = services
        self.dialect = dialect
        self.route = route

    async def parse(self, scope: Scope, receive: Receive, *, counting: bool) -> Parsed:
        body = await read_body(receive)
        data = parse_json(body, _encoding_hint(scope))
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return self.dialect.parse_request(data, headers, request_id=request_id_of(scope), counting=counting)

    async def build_envelope(self, parsed: Parsed, *, patience_s: float) -> Envelope:
        """The canonical request for the model behind the client's name, addressed back to this gateway."""
        services = self.services
        target = await services.resolve(parsed.request.model)
        request = canonicalise(parsed.request)
        sampling = fill_sampling(request.sampling, services.policies.sampling(), target.model)
        now_s = time.time()
        return Envelope(
            request=replace(request, model=target.model, sampling=sampling),
            gateway=services.hub.gateway_id,
            attempt=_FIRST_ATTEMPT,
            deadline_s=now_s + patience_s,
            enqueued_at_s=now_s,
        )


class Generate(_Endpoint):
    """An answer, streamed or whole. An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(scope["state"]["started_s"])
        parsed = await self.parse(scope, receive, counting=False)
        record.warnings = parsed.warnings
        parsed_s = record.note_stage("parse", record.started_s)
        services, priority = self.services, parsed.request.priority
        envelope = await self.build_envelope(parsed, patience_s=services.deadline_s(priority))
        request = envelope.request
        # (Choices that are left to chance are not each other's repetition.)
        is_repeated = parsed.choices == 1 and _is_repeated(scope)
        shared = await self._shared(request, is_repeated=is_repeated)
        record.note_stage("route", parsed_s)
        services.metrics.inflight.inc()
        outcome = "internal"
        try:
            async with contextlib.AsyncExitStack() as leaving:
                stream, reader = await leaving.enter_async_context(self._joined(envelope, shared, record))
                readers = [reader]
                for other in envelopes_of(envelope, parsed.choices)[1:]:
                    found = await self._shared(other.request, is_repeated=False)
                    readers.append((await leaving.enter_async_context(self._joined(other, found, record)))[1])
                client = await leaving.enter_async_context(_reading(receive, readers))
                answer = _Answer(self, parsed, stream, client, record, send)
                outcome = await (answer.stream_it() if parsed.stream else answer.send_whole())
        except GatewayError as error:
            outcome = outcome_of(error)
            raise
        finally:
            services.metrics.inflight.dec()
            services.metrics.answer(self.route, request.model, outcome)
            whose = f" of {shared.request_id}" if shared is not None else ""
            logger.info("%s %s %s%s: %s", request.id, request.model, outcome, whose, record.summary())
        if outcome == "ok" and shared is None:
            services.metrics.finished(request.model, priority, record)
            services.history.note(request.model, time.monotonic() - record.started_s)

    async def _shared(self, request: GenerateRequest, *, is_repeated: bool) -> EventStream | None:
        """The same request under way, when one is; else this one may be put under way. Raises `OverloadedError` and
        `BrokerUnavailableError` when it may not."""
        services = self.services
        shared = services.attachables.find(request) if may_share(request, is_repeated=is_repeated) else None
        if shared is None:
            services.check_broker()
            await services.admit(request.model, request.priority)
        return shared

    @contextlib.asynccontextmanager
    async def _joined(
        self, envelope: Envelope, shared: EventStream | None, record: RequestRecord
    ) -> AsyncIterator[tuple[EventStream, EventReader]]:
        """A reader of the request's events, which is put under way unless it is `shared`. When its last reader has left
        before the answer ended, the work is cancelled."""
        services, request = self.services, envelope.request
        stream = shared or services.hub.begin(
            request.id,
            attempt=envelope.attempt,
            model=request.model,
            queue=choose_queue(services.fleet.snapshot, request.model),
            deadline_s=envelope.deadline_s,
        )
        reader = stream.join()
        try:
            if shared is None:
                began_s = time.monotonic()
                await self._submit(envelope, stream)
                record.note_stage("enqueue", began_s)
            else:
                services.metrics.attached.labels(request.model).inc()
            yield stream, reader
        finally:
            stream.leave(reader)
            if not stream.is_read:
                self._let_go(stream, is_wanted=not reader.is_abandoned)

    async def _submit(self, envelope: Envelope, stream: EventStream) -> None:
        """Raises `BrokerUnavailableError`, to everyone who waits for this request."""
        services = self.services
        services.attachables.add(envelope.request, stream)
        try:
            await services.jobs.submit(envelope, stream.queue)
            await services.wake(envelope.request.model)
        except GatewayError as error:
            stream.fail(error)
            raise

    def _let_go(self, stream: EventStream, *, is_wanted: bool) -> None:
        services = self.services
        services.hub.end(stream)
        services.attachables.remove(stream)
        if not stream.was_ended_by_worker:
            # Also when it could not be queued: it may have arrived although the answer did not.
            reason = "the gateway gave up" if is_wanted else "the client left"
            services.jobs.cancel_soon(stream.request_id, stream.attempt, stream.queue, reason)
            if not is_wanted:
                services.metrics.cancels.labels(stream.stage).inc()


def _encoding_hint(scope: Scope) -> str:
    encoding = header(scope, b"content-encoding")
    return f"; a content-encoding ({encoding[:40]}) is not understood here" if encoding else ""


def _is_repeated(scope: Scope) -> bool:
    """Whether the client's headers say that the same request again means the same answer."""
    return header(scope, b"x-stainless-retry-count") not in ("", "0") or bool(header(scope, _SESSION_HEADER))


@contextlib.asynccontextmanager
async def _reading(receive: Receive, readers: Sequence[EventReader]) -> AsyncIterator[ChoiceReaders]:
    """What one client reads, for as long as it stays."""
    client = ChoiceReaders(readers)
    watcher = asyncio.create_task(_watch_client(receive, client))
    try:
        yield client
    finally:
        watcher.cancel()
        await client.aclose()


async def _watch_client(receive: Receive, client: ChoiceReaders) -> None:
    """The body has been read, so the next message says that the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    client.abandon()


class _Answer:
    """One request's events on their way to its client. The methods return the outcome for the metrics."""

    def __init__(
        self,
        endpoint: Generate,
        parsed: Parsed,
        stream: EventStream,
        client: ChoiceReaders,
        record: RequestRecord,
        send: Send,
    ) -> None:
        self.settings = endpoint.services.settings
        self.dialect = endpoint.dialect
        self.client = client
        self.record = record
        self.send = send
        self.context = RenderContext(
            request_id=stream.request_id,
            model=parsed.request.model,
            created_s=stream.created_s,
            options=parsed.options,
            choices=parsed.choices,
            noop_s=self.settings.noop_s,
        )

    async def send_whole(self) -> str:
        """Raises the error of a failed request."""
        told: list[list[Event]] = [[] for _ in range(self.context.choices)]
        while not self.client.is_over:
            for choice, event in await self._next(_PATIENCE_S):
                if isinstance(event, Failed):
                    raise event.error()
                told[choice].append(event)
            if self.client.is_abandoned:
                return "cancelled"
        first, *others = [assemble(events) for events in told]
        answer = self.dialect.render_completion(first, self.context, others)
        await send_json(self.send, 200, answer, headers=self._warnings())
        return "ok"

    async def stream_it(self) -> str:
        """Raises the error of a request that failed before its response was opened."""
        told = await self._first_events()
        if self.client.is_abandoned:
            return "cancelled"
        if told and isinstance(told[-1][1], Failed):
            raise told[-1][1].error()
        renderer = self.dialect.renderer(self.context)
        warnings = [(name.encode(), text.encode()) for name, text in self._warnings().items()]
        await self.send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS + warnings})
        try:
            return await self._relay(renderer, told)
        except Exception:  # any bug in here: the client is told, in the stream that is open already
            logger.exception("request %s: rendering failed", self.context.request_id)
            last = renderer.feed(Failed.of(InternalError("internal error while the answer was rendered")))
            await self._write(last, is_last=True)
            return "internal"

    def _warnings(self) -> dict[str, str]:
        """What of the request is not honoured, in a header: the dialects have no place for it."""
        text = "; ".join(dict.fromkeys(self.record.warnings)).encode("ascii", "backslashreplace").decode()
        return {WARNINGS_HEADER: "".join(c for c in text if c.isprintable())[:_MAX_WARNINGS]} if text else {}

    async def _first_events(self) -> _Told:
        """Until the prompt is known to be good or bad, or the grace is over."""
        told: _Told = []
        opens_s = time.monotonic() + self.settings.stream_grace_s
        while not self.client.is_abandoned and not any(_settles(event) for _, event in told):
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
        while not self.client.is_over:
            left_s = keepalive_s
            if data:
                await self._write(data, is_last=False)
                wrote_s = time.monotonic()
            else:
                left_s = max(0.0, wrote_s + keepalive_s - time.monotonic())
            told = await self._next(left_s)
            if self.client.is_abandoned:
                return "cancelled"
            data = b"".join([renderer.feed(event, choice) for choice, event in told])
            if data or any(not isinstance(event, Progress) for _, event in told):
                spoke_s = time.monotonic()
            elif time.monotonic() - wrote_s >= keepalive_s:
                data = renderer.keepalive(time.monotonic() - spoke_s)
        await self._write(data, is_last=True)
        last = told[-1][1]
        return outcome_of(last.error()) if isinstance(last, Failed) else "ok"

    async def _next(self, timeout_s: float) -> _Told:
        told = await self.client.wait(timeout_s)
        self.record.note([event for _, event in told])
        return told

    async def _write(self, data: bytes, *, is_last: bool) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": not is_last})


def _settles(event: Event) -> bool:
    return not isinstance(event, Progress) or event.phase == "prefill"


class CountTokens(_Endpoint):
    """Tokens of a prompt, counted by any worker of the model beside its generation. An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parsed = await self.parse(scope, receive, counting=True)
        envelope = await self.build_envelope(parsed, patience_s=keys.CALL_TTL_S)
        self.services.check_broker()
        outcome = "internal"
        try:
            count = await self._count(envelope)
            outcome = "ok"
        except GatewayError as error:
            outcome = outcome_of(error)
            raise
        finally:
            self.services.metrics.answer(self.route, envelope.request.model, outcome)
        await send_json(send, 200, {"input_tokens": count})

    async def _count(self, envelope: Envelope) -> int:
        services, request = self.services, envelope.request
        stream = services.hub.begin(
            request.id, attempt=envelope.attempt, model=request.model, deadline_s=envelope.deadline_s
        )
        reader = stream.join()
        try:
            await services.jobs.count(envelope)
            await services.wake(request.model)
            while True:
                events = await reader.wait(envelope.deadline_s - time.time())
                for event in events:
                    if isinstance(event, Started):
                        return event.usage.input_tokens
                    if isinstance(event, Failed):
                        raise event.error()
                if time.time() >= envelope.deadline_s:
                    raise DeadlineExceededError(f"no worker of {request.model} counted the tokens in time")
        finally:
            stream.leave(reader)
            services.hub.end(stream)
