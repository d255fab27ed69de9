"""The vendor's speech: what is asked, and sound in a stream of events.

Source: https://platform.openai.com/docs/api-reference/audio/createSpeech, as the official SDKs' types spell it out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from gateway.dialects import fields
from gateway.dialects.sse import encode_data
from shared.events import Spoken
from shared.work import SoundForm

MAX_INPUT: Final = 4096  # characters
SPEEDS: Final = (0.25, 4.0)
FORMS: Final[tuple[SoundForm, ...]] = get_args(SoundForm)
MEDIA_TYPES: Final[Mapping[SoundForm, bytes]] = {
    "mp3": b"audio/mpeg",
    "opus": b"audio/ogg",
    "aac": b"audio/aac",
    "flac": b"audio/flac",
    "wav": b"audio/wav",
    "pcm": b"audio/pcm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSpeech:
    model: str
    text: str
    voice: str
    form: SoundForm
    speed: float
    instructions: str
    as_events: bool


def parse_speech(body: Mapping[str, Any]) -> AskedSpeech:
    text = fields.name(body.get("input"), "input")
    if len(text) > MAX_INPUT:
        fields.refuse(f"String should have at most {MAX_INPUT} characters", "input")
    form, stream = body.get("response_format"), body.get("stream_format")
    if form not in (None, *FORMS):
        fields.refuse(f"Input should be one of {', '.join(FORMS)}", "response_format")
    if stream not in (None, "audio", "sse"):
        fields.refuse("Input should be 'audio' or 'sse'", "stream_format")
    return AskedSpeech(
        model=fields.name(body.get("model"), "model"),
        text=text,
        voice=_voice(body.get("voice")),
        form=form or "mp3",
        speed=_speed(body.get("speed")),
        instructions=fields.optional_string(body.get("instructions"), "instructions"),
        as_events=stream == "sse",
    )


def _voice(value: Any) -> str:
    """A name, or an object with an id."""
    if isinstance(value, dict):
        return fields.name(value.get("id"), "voice", "id")
    return fields.optional_string(value, "voice")


def _speed(value: Any) -> float:
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or isinstance(value, bool):
        fields.refuse("Input should be a valid number", "speed")
    low, high = SPEEDS
    if not low <= value <= high:  # nor NaN
        fields.refuse(f"Input should be between {low} and {high}", "speed")
    return float(value)


def render_sound(data: bytes) -> bytes:
    """One event of a stream."""
    return encode_data({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})


def render_end(made: Spoken) -> bytes:
    """The last."""
    total = made.input_tokens + made.output_tokens
    usage = {"input_tokens": made.input_tokens, "output_tokens": made.output_tokens, "total_tokens": total}
    return encode_data({"type": "speech.audio.done", "usage": usage})
