"""`/v1/audio/transcriptions` and `/v1/audio/translations`: form -> work for a worker that hears -> transcript, whole or
segment by segment."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

from starlette.types import Receive, Scope, Send

from gateway.dialects.fields import named
from gateway.dialects.openai.errors import render_body
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai.transcripts import (
    AskedTranscript,
    TranscriptStream,
    parse_transcript,
    render_transcript,
)
from gateway.dialects.priority import asked_priority
from gateway.dialects.sse import encode_comment, encode_data
from gateway.dispatch.choices import ChoiceReaders
from gateway.http.endpoints import PATIENCE_S, STREAM_HEADERS, reading_of
from gateway.http.multipart import Form, FormFile, parse_form
from gateway.http.replies import ClientDisconnectedError, header, headers_of, read_raw, request_id_of, send_reply
from gateway.keys.headers import rate_headers
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from gateway.trace.spans import traced_beside
from shared.errors import GatewayError, InvalidRequestError
from shared.events import Event, EventOrder, Failed, Heard, Started, Transcribed, Usage, known
from shared.request import GenerateRequest
from shared.work import KINDS, Transcribe

Task = Literal["transcribe", "translate"]
_BYTES_PER_TOKEN: Final = 640  # of 16-bit sound at 16 kHz, whose tokens are fiftieths of a second


@dataclass(slots=True)
class _Spent:
    """So far."""

    usage: Usage | None = None

    @property
    def tokens(self) -> int:
        return 0 if self.usage is None else known(self.usage.input_tokens) + known(self.usage.output_tokens)

    def note(self, event: Event) -> None:
        if isinstance(event, Started):
            self.usage = event.usage
        elif isinstance(event, Transcribed):
            self.usage = Usage(input_tokens=event.input_tokens, output_tokens=event.output_tokens)


class Transcriptions:
    """Of one task. An ASGI application."""

    def __init__(self, parts: Parts, task: Task) -> None:
        self._task: Task = task
        self._intake = parts.intake
        self._dispatcher = parts.dispatcher
        self._quotas = parts.quotas
        self._usage = parts.usage
        self._metrics = parts.metrics
        self._tracer = parts.tracer
        self._keepalive_s = parts.settings.keepalive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = parse_form(header(scope, b"content-type"), await read_raw(receive))
        with named(in_brackets):
            asked = parse_transcript(form.every)
            priority = asked_priority(headers_of(scope)) or "interactive"
        request = GenerateRequest(id=request_id_of(scope), model=asked.model, messages=(), priority=priority)
        work = _work(request, asked, _file(form), self._task)
        spent = _Spent()
        async with self._taken(scope, work, spent) as taken:
            dispatch = await self._dispatcher.admit_transcribe(taken)
            async with self._dispatcher.joined(dispatch) as reader, reading_of(receive, [reader]) as reading:
                if asked.is_streamed:
                    await self._stream(reading, spent, send)
                else:
                    await self._send_whole(asked, reading, spent, send)

    @asynccontextmanager
    async def _taken(self, scope: Scope, work: Transcribe, spent: _Spent) -> AsyncIterator[Transcribe]:
        """The work as it goes to a worker, charged and traced. Raises `PermissionDeniedError` for a model that the key
        may not use, and what `Intake.take` and `Quotas.admitted` raise."""
        holder, asked = holder_of(scope), work.request.model
        request = await self._intake.take(holder.own(work.request), holder.limit)
        holder.check_model(request.model, asked=asked)
        scope["state"]["model"] = request.model
        expected_tokens = len(work.sound) // _BYTES_PER_TOKEN
        charged = self._quotas.admitted(holder, request.id, tokens=expected_tokens, used=lambda: spent.tokens)
        async with charged as allowance:
            scope["state"]["rate_headers"] = rate_headers(allowance, time.time()) if allowance else {}
            try:
                traced = traced_beside(self._tracer, scope, request, "transcription", lambda: spent.tokens)
                with traced as named_request:
                    yield replace(work, request=named_request)
            finally:
                if spent.usage is not None:
                    self._usage.note(holder.name, request.model, spent.usage)
                    self._metrics.used(holder.name, spent.usage)

    async def _send_whole(self, asked: AskedTranscript, reading: ChoiceReaders, spent: _Spent, send: Send) -> None:
        async for event in _events(reading, spent, PATIENCE_S):
            if isinstance(event, Transcribed):
                body, media_type = render_transcript(asked, event, task=self._task)
                await send_reply(send, 200, body, media_type=media_type)
                return

    async def _stream(self, reading: ChoiceReaders, spent: _Spent, send: Send) -> None:
        """Raises the error of work that failed before its first event was told."""
        events = _events(reading, spent, self._keepalive_s)
        first = await anext(events)
        while not isinstance(first, Started):
            first = await anext(events)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        stream = TranscriptStream()
        try:
            async for event in events:
                is_last = isinstance(event, Transcribed)
                await send({"type": "http.response.body", "body": _told(stream, event), "more_body": not is_last})
                if is_last:
                    return
        except GatewayError as error:
            await send({"type": "http.response.body", "body": encode_data(render_body(error)), "more_body": False})


def _told(stream: TranscriptStream, event: Event | None) -> bytes:
    match event:
        case None:
            return encode_comment("")
        case Heard(segment=segment):
            return stream.feed(segment)
        case Transcribed():
            return stream.end(event)
        case _:
            return b""


async def _events(reading: ChoiceReaders, spent: _Spent, patience_s: float) -> AsyncIterator[Event | None]:
    """As they come; None where none came for so long. Raises the error of a failure, and `ClientDisconnectedError`."""
    order = EventOrder(KINDS[Transcribe].begins)
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


def _file(form: Form) -> FormFile:
    file = form.files.get("file")
    if file is None or not file.content:
        raise InvalidRequestError("file: Field required" if file is None else "file: it is empty", param="file")
    return file


def _work(request: GenerateRequest, asked: AskedTranscript, file: FormFile, task: Task) -> Transcribe:
    return Transcribe(
        request=request,
        sound=file.content,
        task=task,
        language=asked.language if task == "transcribe" else "",
        prompt=asked.prompt,
        temperature=asked.temperature,
        with_words=asked.with_words,
        in_parts=asked.is_streamed,
    )
