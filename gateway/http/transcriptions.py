"""`/v1/audio/transcriptions` and `/v1/audio/translations`: form -> work for a worker that hears -> transcript, whole or
segment by segment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Literal

from starlette.types import Receive, Scope, Send

from gateway.dialects.fields import named
from gateway.dialects.openai.errors import render_body
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai.transcripts import AskedTranscript, TranscriptStream, parse_transcript, render_transcript
from gateway.dialects.sse import encode_comment, encode_data
from gateway.http.endpoints import PATIENCE_S, STREAM_HEADERS
from gateway.http.multipart import Form, FormFile, parse_form
from gateway.http.replies import header, read_raw, send_reply
from gateway.http.sound_work import SoundWork, request_of
from gateway.parts import Parts
from shared.errors import GatewayError, InvalidRequestError
from shared.events import Event, Heard, Started, Transcribed
from shared.request import GenerateRequest
from shared.work import Transcribe

Task = Literal["transcribe", "translate"]
_BYTES_PER_TOKEN: Final = 640  # of 16-bit sound at 16 kHz, whose tokens are fiftieths of a second


class Transcriptions:
    """Of one task. An ASGI application."""

    def __init__(self, parts: Parts, task: Task) -> None:
        self._task: Task = task
        self._work = SoundWork(parts, "transcription")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = parse_form(header(scope, b"content-type"), await read_raw(receive))
        with named(in_brackets):
            asked = parse_transcript(form.every)
        work = _work(request_of(scope, asked.model), asked, _file(form), self._task)
        told = self._work.told(
            scope,
            receive,
            work,
            expected_tokens=len(work.sound) // _BYTES_PER_TOKEN,
            patience_s=self._work.keepalive_s if asked.is_streamed else PATIENCE_S,
        )
        async with told as events:
            if asked.is_streamed:
                await _stream(events, send)
            else:
                await self._send_whole(asked, events, send)

    async def _send_whole(self, asked: AskedTranscript, events: AsyncIterator[Event | None], send: Send) -> None:
        async for event in events:
            if isinstance(event, Transcribed):
                body, media_type = render_transcript(asked, event, task=self._task)
                await send_reply(send, 200, body, media_type=media_type)
                return


async def _stream(events: AsyncIterator[Event | None], send: Send) -> None:
    """Raises the error of work that failed before it began."""
    while not isinstance(await anext(events), Started):
        pass
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
