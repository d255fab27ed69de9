"""`/v1/audio/speech`: body -> work for a worker that speaks -> sound, sent as it is made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from starlette.types import Receive, Scope, Send

from gateway.dialects.fields import body_object, named
from gateway.dialects.openai.errors import render_body
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai.speech import MEDIA_TYPES, AskedSpeech, parse_speech, render_end, render_sound
from gateway.dialects.sse import encode_comment, encode_data
from gateway.http.endpoints import PATIENCE_S, STREAM_HEADERS
from gateway.http.replies import read_body
from gateway.http.sound_work import SoundWork, request_of
from gateway.intake.json_text import parse_json
from gateway.parts import Parts
from shared.errors import GatewayError
from shared.events import Event, Sound, Spoken
from shared.work import Speak

_TOKENS_PER_CHARACTER: Final = 4  # about: fifteen characters take a second, of fifty tokens


class Speech:
    """An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._work = SoundWork(parts, "speech")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, _ = body_object(parse_json((await read_body(receive)).joined()))
        with named(in_brackets):
            asked = parse_speech(body)
        work = Speak(
            request=request_of(scope, asked.model),
            text=asked.text,
            voice=asked.voice,
            form=asked.form,
            speed=asked.speed,
            instructions=asked.instructions,
        )
        told = self._work.told(
            scope,
            receive,
            work,
            expected_tokens=_TOKENS_PER_CHARACTER * len(asked.text),
            patience_s=self._work.keepalive_s if asked.as_events else PATIENCE_S,
        )
        async with told as events:
            await _send(asked, events, send)


async def _send(asked: AskedSpeech, events: AsyncIterator[Event | None], send: Send) -> None:
    """Raises the error of work that failed before there was any sound, and of raw sound also later: an answer without
    its end is how its client hears of it."""
    event = await anext(events)
    while not isinstance(event, Sound | Spoken):
        event = await anext(events)
    headers = STREAM_HEADERS if asked.as_events else [(b"content-type", MEDIA_TYPES[asked.form])]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        while not isinstance(event, Spoken):
            await send({"type": "http.response.body", "body": _told(asked, event), "more_body": True})
            event = await anext(events)
    except GatewayError as error:
        if not asked.as_events:
            raise
        await send({"type": "http.response.body", "body": encode_data(render_body(error)), "more_body": False})
        return
    await send({"type": "http.response.body", "body": _told(asked, event), "more_body": False})


def _told(asked: AskedSpeech, event: Event | None) -> bytes:
    match event:
        case Sound(data=data):
            return render_sound(data) if asked.as_events else data
        case Spoken():
            return render_end(event) if asked.as_events else b""
        case None if asked.as_events:
            return encode_comment("")
        case _:
            return b""
