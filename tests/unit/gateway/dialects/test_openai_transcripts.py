"""Forms that ask for transcripts, and transcripts in every form that they may have."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)

from gateway.dialects.fields import FieldError
from gateway.dialects.openai.transcripts import TranscriptStream, parse_transcript, render_transcript
from shared.events import Segment, Transcribed, Word

MADE = Transcribed(
    language="de",
    duration_s=3661.25,
    segments=(
        Segment(
            start_s=0.0,
            end_s=1.5,
            text=" Tom & <Jerry> --> go",
            token_ids=(1, 2),
            words=(Word(text=" Tom", start_s=0.0, end_s=0.5), Word(text=" &", start_s=0.5, end_s=0.75)),
            mean_logprob=-0.25,
        ),
        Segment(start_s=3600.0, end_s=3661.2, text="\n home."),
    ),
)


def asked(**form: Any) -> Any:
    values = {name: (value,) if isinstance(value, str) else value for name, value in form.items()}
    return parse_transcript({"model": ("m",), **{name.replace("__", "[]"): value for name, value in values.items()}})


def rendered(**form: Any) -> tuple[str, str]:
    body, media_type = render_transcript(asked(**form), MADE, task="transcribe")
    return body.decode(), media_type.decode()


def test_what_is_not_said_is_what_the_api_takes_for_it() -> None:
    plain = asked()
    assert (plain.form, plain.temperature, plain.is_streamed) == ("json", None, False)
    assert (plain.with_segments, plain.with_words) == (True, False)
    words = asked(response_format="verbose_json", timestamp_granularities__=("word",))
    assert (words.with_segments, words.with_words) == (False, True)
    both = asked(response_format="verbose_json", timestamp_granularities__=("word", "segment"))
    assert (both.with_segments, both.with_words) == (True, True)


def test_how_it_is_heard_is_said_in_the_form() -> None:
    one = asked(language="en", prompt="Names: Ada.", temperature="0.4", stream="true")
    assert (one.language, one.prompt, one.temperature, one.is_streamed) == ("en", "Names: Ada.", 0.4, True)
    assert asked(temperature="0").temperature is None
    assert asked(keywords__=("Ada", "Grace")).prompt == "Ada, Grace"
    assert asked(keywords__=("Ada",), prompt="It was she.").prompt == "Ada, It was she."


def test_fields_that_mean_nothing_to_a_transcript_are_accepted() -> None:
    names = ("chunking_strategy", "known_speaker_names__", "known_speaker_references__", "languages__")
    assert asked(**dict.fromkeys(names, "auto")) == asked()


@pytest.mark.parametrize(
    ("form", "at"),
    [
        ({"model": ""}, "model"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "1.5"}, "temperature"),
        ({"timestamp_granularities__": ("word",)}, "timestamp_granularities"),
        ({"response_format": "verbose_json", "timestamp_granularities__": ("line",)}, "timestamp_granularities"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"include__": ("logprobs",)}, "include"),
        ({"prompt": "a" * 5000}, "prompt"),
    ],
)
def test_what_cannot_be_heard_so_is_refused_with_its_place(form: dict[str, Any], at: str) -> None:
    with pytest.raises(FieldError) as caught:
        asked(**form)
    assert caught.value.path == (at,)


def test_each_form_of_a_transcript_is_what_its_readers_take() -> None:
    body, media_type = rendered()
    plain = Transcription.model_validate_json(body, strict=True)
    assert plain.text == "Tom & <Jerry> --> go\n home."
    assert (media_type, orjson.loads(body)["usage"]) == ("application/json", {"type": "duration", "seconds": 3662})
    assert rendered(response_format="text") == (f"{plain.text}\n", "text/plain; charset=utf-8")
    assert rendered(response_format="srt")[0] == (
        "1\n00:00:00,000 --> 00:00:01,500\nTom & <Jerry> -> go\n\n2\n01:00:00,000 --> 01:01:01,200\nhome.\n\n"
    )
    assert rendered(response_format="vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nTom &amp; &lt;Jerry&gt; -&gt; go\n\n"
        "01:00:00.000 --> 01:01:01.200\nhome.\n\n",
        "text/vtt; charset=utf-8",
    )


def test_a_verbose_transcript_has_the_times_that_were_asked_for() -> None:
    whole = TranscriptionVerbose.model_validate_json(rendered(response_format="verbose_json")[0])
    assert (whole.language, whole.duration, whole.words) == ("german", 3661.25, None)
    assert whole.segments is not None
    assert [(one.id, one.start, one.end) for one in whole.segments] == [(0, 0.0, 1.5), (1, 3600.0, 3661.2)]
    body, _ = rendered(response_format="verbose_json", timestamp_granularities__=("word",))
    words = TranscriptionVerbose.model_validate_json(body)
    assert (words.segments, [one.word for one in words.words or ()]) == (None, ["Tom", "&"])


def test_a_stream_says_the_text_part_by_part() -> None:
    stream = TranscriptStream()
    sent = [stream.feed(segment) for segment in MADE.segments] + [stream.end(MADE)]
    told = [orjson.loads(data.removeprefix(b"data: ")) for data in sent]
    deltas = [TranscriptionTextDeltaEvent.model_validate(one).delta for one in told[:-1]]
    done = TranscriptionTextDoneEvent.model_validate(told[-1])
    assert "".join(deltas) == done.text == MADE.text
