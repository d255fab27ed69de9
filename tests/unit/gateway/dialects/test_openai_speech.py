"""What is to be said aloud, and sound in a stream of events."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from gateway.dialects.fields import FieldError
from gateway.dialects.openai.speech import parse_speech, render_end, render_sound
from shared.events import Spoken


def asked(**body: Any) -> Any:
    return parse_speech({"model": "m", "input": "Hello.", **body})


def test_how_it_is_said_is_said_in_the_body() -> None:
    plain = asked()
    assert (plain.text, plain.voice, plain.form, plain.speed, plain.as_events) == ("Hello.", "", "mp3", 1.0, False)
    one = asked(
        voice={"id": "v1"}, response_format="wav", speed=2, instructions="Calm.", stream_format="sse", input="a" * 4096
    )
    assert (one.voice, one.form, one.speed, one.instructions, one.as_events) == ("v1", "wav", 2.0, "Calm.", True)


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"input": ""}, "input"),
        ({"input": "a" * 4097}, "input"),
        ({"model": None}, "model"),
        ({"voice": 3}, "voice"),
        ({"response_format": "midi"}, "response_format"),
        ({"speed": 5}, "speed"),
        ({"speed": True}, "speed"),
        ({"stream_format": "rtp"}, "stream_format"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(body: dict[str, Any], at: str) -> None:
    with pytest.raises(FieldError) as caught:
        asked(**body)
    assert caught.value.path[0] == at


def test_sound_in_events_is_in_the_vendors_shape() -> None:
    delta = orjson.loads(render_sound(b"\x00\xff").removeprefix(b"data: "))
    assert (delta["type"], base64.b64decode(delta["audio"])) == ("speech.audio.delta", b"\x00\xff")
    done = orjson.loads(render_end(Spoken(duration_s=1.0, input_tokens=3, output_tokens=50)).removeprefix(b"data: "))
    usage = {"input_tokens": 3, "output_tokens": 50, "total_tokens": 53}
    assert done == {"type": "speech.audio.done", "usage": usage}
