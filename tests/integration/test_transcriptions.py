"""Recordings through gateway, Redis and a worker, as the official package sends them."""

from __future__ import annotations

import warnings
from pathlib import Path

import openai
import pytest

from tests.models.whisper_checkpoint import build_whisper
from tests.support.served import served
from tests.support.sounds import encoded, wav

TEXT = "hello world and again."


@pytest.mark.slow
def test_transcripts_come_through_the_whole_stack(redis_url: str, tmp_path: Path) -> None:
    build_whisper(tmp_path / "tiny")
    source = str(tmp_path / "tiny")
    with served(redis_url, tmp_path) as gateway, gateway.worker("tiny", engine="transcription", source=source):
        with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="any", max_retries=0) as client:
            audio = client.audio
            sound = ("speech.wav", wav(2.0))
            assert audio.transcriptions.create(model="tiny", file=sound).text == TEXT
            subtitles = audio.transcriptions.create(model="tiny", file=sound, response_format="srt")
            assert "00:00:01,000 --> 00:00:02,000\nand again." in str(subtitles)
            whole = audio.transcriptions.create(
                model="tiny",
                file=("speech.mp3", encoded("mp3")),
                response_format="verbose_json",
                timestamp_granularities=["word", "segment"],
            )
            assert (whole.language, len(whole.segments or ()), len(whole.words or ())) == ("german", 2, 4)
            stream = audio.transcriptions.create(model="tiny", file=sound, stream=True)
            events = list(stream)
            assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
            assert events[-1].type == "transcript.text.done"
            assert events[-1].text == TEXT
            with warnings.catch_warnings(
                action="ignore", category=DeprecationWarning
            ):  # the vendor's, of its own method
                assert audio.translations.create(model="tiny", file=sound).text == TEXT
            with pytest.raises(openai.BadRequestError, match="Invalid file format"):
                audio.transcriptions.create(model="tiny", file=("speech.wav", b"no sound"))
            with pytest.raises(openai.BadRequestError, match="Invalid file format"):
                audio.transcriptions.create(model="tiny", file=("speech.wav", b"no sound"), stream=True)
            with pytest.raises(openai.BadRequestError, match="language"):
                audio.transcriptions.create(model="tiny", file=sound, language="tlh")
            with pytest.raises(openai.BadRequestError, match="writes no answers"):
                client.completions.create(model="tiny", prompt="a")
            with pytest.raises(openai.NotFoundError):
                audio.transcriptions.create(model="nobody", file=sound)
        wrong = gateway.post("/v1/audio/transcriptions", {"model": "tiny"})
        assert (wrong.status, wrong.json["error"]["type"]) == (400, "invalid_request_error")
