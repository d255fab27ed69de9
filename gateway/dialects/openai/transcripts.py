"""The vendor's transcriptions and translations: what a form asks, and a transcript in the forms that it may have.

Sources: https://platform.openai.com/docs/api-reference/audio, as the official SDKs' types spell it out; SubRip and
WebVTT (https://www.w3.org/TR/webvtt1/) for subtitles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.dialects import fields
from gateway.dialects.sse import encode_data
from shared.events import Segment, Transcribed, Word
from shared.exact import dump_bytes
from shared.languages import NAMES

_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
_STREAMED: Final = ("json", "text")
_GRANULARITIES: Final = ("word", "segment")
_MOST_PROMPT: Final = 4096  # characters
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"
_VTT: Final = b"text/vtt; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTranscript:
    model: str
    language: str
    prompt: str
    form: str
    temperature: float | None
    with_words: bool
    with_segments: bool
    is_streamed: bool


def parse_transcript(form: Mapping[str, Sequence[str]]) -> AskedTranscript:
    """`form` has each field's values, in their order."""
    asked = _one(form, "response_format") or "json"
    if asked not in _FORMATS:
        fields.refuse(f"Input should be one of {', '.join(_FORMATS)}", "response_format")
    if any(form.get("include[]", form.get("include", ()))):
        fields.refuse("logprobs are not given", "include")
    details = form.get("timestamp_granularities[]", form.get("timestamp_granularities", ()))
    if details and asked != "verbose_json":
        fields.refuse("it needs the response_format verbose_json", "timestamp_granularities")
    if any(detail not in _GRANULARITIES for detail in details):
        fields.refuse("Input should be 'word' or 'segment'", "timestamp_granularities")
    is_streamed = _flag(_one(form, "stream"), "stream")
    if is_streamed and asked not in _STREAMED:
        fields.refuse("a stream has the response_format json or text", "stream")
    prompt = ", ".join([*form.get("keywords[]", form.get("keywords", ())), _one(form, "prompt")]).removesuffix(", ")
    if len(prompt) > _MOST_PROMPT:
        fields.refuse(f"String should have at most {_MOST_PROMPT} characters", "prompt")
    return AskedTranscript(
        model=fields.name(_one(form, "model") or None, "model"),
        language=_one(form, "language"),
        prompt=prompt,
        form=asked,
        temperature=_temperature(_one(form, "temperature")),
        with_words="word" in details,
        with_segments=not details or "segment" in details,
        is_streamed=is_streamed,
    )


def _one(form: Mapping[str, Sequence[str]], name: str) -> str:
    return form[name][-1].strip() if form.get(name) else ""


def _flag(text: str, at: str) -> bool:
    if text.lower() not in ("", "true", "false", "1", "0"):
        fields.refuse("Input should be a valid boolean", at)
    return text.lower() in ("true", "1")


def _temperature(text: str) -> float | None:
    """None, as for 0, with which the vendor's model becomes warmer by itself where it has to."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        fields.refuse("Input should be a valid number", "temperature")
    if not 0.0 <= value <= 1.0:  # nor NaN
        fields.refuse("Input should be between 0 and 1", "temperature")
    return value or None


def render_transcript(asked: AskedTranscript, made: Transcribed, *, task: str) -> tuple[bytes, bytes]:
    """(body, media type)."""
    match asked.form:
        case "text":
            return f"{made.text}\n".encode(), _TEXT
        case "srt":
            return _srt(made.segments).encode(), _TEXT
        case "vtt":
            return _vtt(made.segments).encode(), _VTT
        case "verbose_json":
            return dump_bytes(_verbose(asked, made, task)), _JSON
        case _:
            return dump_bytes({"text": made.text, "usage": _usage(made)}), _JSON


def _verbose(asked: AskedTranscript, made: Transcribed, task: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "task": task,
        "language": NAMES.get(made.language, made.language),
        "duration": round(made.duration_s, 3),
        "text": made.text,
        "usage": _usage(made),
    }
    if asked.with_segments:
        found["segments"] = [_segment(number, segment) for number, segment in enumerate(made.segments)]
    if asked.with_words:
        found["words"] = [_word(word) for segment in made.segments for word in segment.words]
    return found


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": round(segment.start_s * 100),
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": list(segment.token_ids),
        "temperature": segment.temperature,
        "avg_logprob": segment.mean_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.silence_probability,
    }


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text.strip(), "start": word.start_s, "end": word.end_s}


def _usage(made: Transcribed) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(made.duration_s)}


def _srt(segments: Sequence[Segment]) -> str:
    return "".join(
        f"{number}\n{_clock(each.start_s, ',')} --> {_clock(each.end_s, ',')}\n{_line(each)}\n\n"
        for number, each in enumerate(segments, 1)
    )


def _vtt(segments: Sequence[Segment]) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_clock(each.start_s, '.')} --> {_clock(each.end_s, '.')}\n{_escaped(_line(each))}\n\n" for each in segments
    )


def _line(segment: Segment) -> str:
    """One, that ends no cue and begins none."""
    return " ".join(segment.text.split()).replace("-->", "->")


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{point}{thousandths:03}"


class TranscriptStream:
    """Segments as the vendor's events, each with what it adds to the text."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, segment: Segment) -> bytes:
        """Nothing where it says nothing."""
        more = segment.text if self._text else segment.text.lstrip()
        self._text += more
        return encode_data({"type": "transcript.text.delta", "delta": more}) if more else b""

    def end(self, made: Transcribed) -> bytes:
        """Streams are of the vendor's models that count tokens, so that their usage has those."""
        counts = {"input_tokens": made.input_tokens, "output_tokens": made.output_tokens}
        usage = {"type": "tokens", **counts, "total_tokens": sum(counts.values())}
        return encode_data({"type": "transcript.text.done", "text": self._text, "usage": usage})
