"""Texts said aloud through gateway, Redis and a worker, as the official package asks for them. The model is a stand-in
(`tests.support.stand_in_voice`): that a model of mlx-audio speaks is not shown here."""

from __future__ import annotations

import http.client
from pathlib import Path

import openai
import orjson
import pytest

from tests.support.served import served
from tests.support.stand_in_voice import build_voices
from worker.files.sound import sound_samples


def test_speech_comes_through_the_whole_stack(redis_url: str, tmp_path: Path) -> None:
    source = str(build_voices(tmp_path / "model", "af_heart"))
    with (
        served(redis_url, tmp_path) as gateway,
        gateway.worker("kokoro", engine="speech", source=source, module="tests.support.stand_in_voice"),
    ):
        with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="any", max_retries=0) as client:
            speech = client.audio.speech
            made = speech.create(model="kokoro", voice="alloy", input="a" * 100, response_format="flac")
            assert made.response.headers["content-type"] == "audio/flac"
            assert abs(len(sound_samples(made.content)) - 16_000) < 1_000
            with pytest.raises(openai.BadRequestError, match="it has: af_heart"):
                speech.create(model="kokoro", voice="nobody", input="Hello.")
            with pytest.raises(openai.BadRequestError, match="speed"):
                speech.create(model="kokoro", voice="alloy", input="Hello.", speed=9)
            with pytest.raises(openai.InternalServerError):
                speech.create(model="kokoro", voice="alloy", input="unspeakable")
        asked = {"model": "kokoro", "input": "one two", "response_format": "pcm"}
        with gateway.stream("/v1/audio/speech", {**asked, "stream_format": "sse"}) as events:
            kinds = [orjson.loads(data)["type"] for _, data in events]
        assert kinds == ["speech.audio.delta"] * (len(kinds) - 1) + ["speech.audio.done"]
        late = {**asked, "input": "one two three four five six seven eight nine ten eleven twelve. unspeakable"}
        with pytest.raises(http.client.IncompleteRead):
            gateway.post("/v1/audio/speech", late)
        with gateway.stream("/v1/audio/speech", {**late, "stream_format": "sse"}) as events:
            assert "error" in orjson.loads([data for _, data in events][-1])
