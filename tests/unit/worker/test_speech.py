"""Texts in, sound out: pieces, voices, forms. The model is a stand-in (`tests.support.stand_in_voice`): that a model of
mlx-audio speaks is not shown here."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest

from shared.config import Settings
from shared.errors import InvalidRequestError, ModelUnavailableError, RequestCancelledError, UnsupportedWorkError
from shared.events import Event, Sound, Spoken, Started
from shared.registry import ModelSpec
from shared.request import GenerateRequest
from shared.work import SoundForm, Speak
from tests.support import stand_in_voice
from tests.support.sounds import tone
from worker.engines.registry import build_engine
from worker.engines.speech import engine as engine_module
from worker.engines.speech.encoder import encoder_of
from worker.engines.speech.engine import SpeechEngine
from worker.engines.speech.pieces import pieces_of
from worker.files.sound import sound_samples
from worker.serving.speech import speak

WORK = Speak(request=GenerateRequest(id="r", model="m", messages=()), text="Hello there, you.", form="pcm")
FORMS: tuple[SoundForm, ...] = get_args(SoundForm)


class Said:
    def __init__(self, most: float = float("inf")) -> None:
        self.events: list[Event] = []
        self._most = most

    def __call__(self, *events: Event) -> bool:
        self.events += events
        return len(self.events) < self._most

    @property
    def sound(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, Sound))


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlx_audio", "mlx_audio.tts", "mlx_audio.tts.utils"):
        monkeypatch.setitem(sys.modules, name, None)  # which is put back
    stand_in_voice.install()


def load(folder: Path, **options: Any) -> SpeechEngine:
    spec = ModelSpec(id="m", source=str(folder), engine="speech", options=options)
    engine = build_engine(spec, Settings(state_dir=Path("s")))
    assert isinstance(engine, SpeechEngine)
    assert engine.load(lambda _: None).kinds == ("speak",)
    return engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SpeechEngine]:
    one = load(stand_in_voice.build_voices(tmp_path / "m", "af_heart", "bm_george"))
    yield one
    assert one.unload(1.0)


def asked_of(engine: SpeechEngine) -> dict[str, Any]:
    """What the model was asked last."""
    assert engine._model is not None
    return dict(engine._model.network.asked[-1])


def test_a_text_is_said_word_by_word(engine: SpeechEngine) -> None:
    said = Said()
    made = engine.speak(WORK, said)
    assert [type(event) for event in said.events] == [Started, *[Sound] * (len(said.events) - 1)]
    assert made.duration_s == pytest.approx(0.15), "fifteen characters without spaces"
    assert len(said.sound) == pytest.approx(0.15 * 24_000 * 2, abs=64)
    assert made == Spoken(duration_s=made.duration_s, input_tokens=5, output_tokens=8)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_holds_the_sound_that_was_made(engine: SpeechEngine, form: SoundForm) -> None:
    said = Said()
    engine.speak(replace(WORK, text="a" * 100, form=form), said)
    if form == "pcm":
        samples, rate = np.frombuffer(said.sound, "<i2"), 24_000
    else:
        samples, rate = sound_samples(said.sound), 16_000
    assert len(samples) / rate == pytest.approx(1.0, abs=0.15), "codecs pad"
    middle = samples[rate // 4 : rate // 4 * 3].astype(float)
    assert abs(int(np.abs(np.fft.rfft(middle)).argmax()) * 2 - 1000) < 10


def test_the_head_of_a_wav_comes_once_and_even_without_sound() -> None:
    samples = tone(0.1).astype(np.float32) / 32768.0
    encoder = encoder_of("wav", 16_000)
    data = encoder.feed(samples) + encoder.feed(samples) + encoder.end()
    assert (data.count(b"RIFF"), len(data)) == (1, 44 + 2 * 2 * len(samples))
    assert encoder_of("wav", 16_000).end().startswith(b"RIFF")
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.audio[0].rate == 16_000


def test_voices_are_the_models_own_or_stand_for_it(engine: SpeechEngine, tmp_path: Path) -> None:
    engine.speak(replace(WORK, voice="bm_george", speed=2.0), Said())
    assert asked_of(engine) == {"text": WORK.text, "voice": "bm_george", "speed": 2.0, "lang_code": "b"}
    engine.speak(replace(WORK, voice="alloy"), Said())
    assert asked_of(engine)["voice"] == "af_heart", "the vendor's names stand for the model's usual one"
    with pytest.raises(InvalidRequestError, match="it has: af_heart, bm_george"):
        engine.speak(replace(WORK, voice="nobody"), Said())
    with pytest.raises(InvalidRequestError, match="instructions: this model takes none"):
        engine.speak(replace(WORK, instructions="Whisper."), Said())
    folder = stand_in_voice.build_voices(tmp_path / "other", "a", "b")
    other = load(folder, voice="b", voices={"onyx": "a"})
    for name, own in (("alloy", "b"), ("onyx", "a"), ("", "b")):
        other.speak(replace(WORK, voice=name), Said())
        assert asked_of(other)["voice"] == own
    other.unload(1.0)


@pytest.mark.parametrize("name", ["/tmp/voice.safetensors", "../voice", "https://somewhere/voice.wav", "a,b"])
def test_a_voice_is_no_path_and_no_address(tmp_path: Path, name: str) -> None:
    other = load(stand_in_voice.build_voices(tmp_path / "m"))
    with pytest.raises(InvalidRequestError, match="voice"):
        other.speak(replace(WORK, voice=name), Said())
    other.speak(replace(WORK, voice="Vivian"), Said())
    assert asked_of(other)["voice"] == "Vivian", "a model that keeps its voices elsewhere is asked for them by name"
    other.unload(1.0)


def test_what_nobody_wants_any_more_is_left(engine: SpeechEngine) -> None:
    said = Said(most=3)
    with pytest.raises(RequestCancelledError):
        engine.speak(replace(WORK, text="word " * 500), said)
    assert len(said.events) == 3


def test_nothing_to_say_is_refused(engine: SpeechEngine) -> None:
    with pytest.raises(InvalidRequestError, match="nothing to say"):
        engine.speak(replace(WORK, text=" \n "), Said())


def test_pieces_are_sentences_that_together_are_the_text() -> None:
    text = 'One. Two! "Three?" ' + "long " * 200 + "end.\n\nThe last one stands alone, as paragraphs do. 你好。再见。"
    pieces = pieces_of(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= 300 for piece in pieces)
    assert pieces[0].startswith('One. Two! "Three?"')
    assert pieces_of("  ") == []


def test_other_engines_say_nothing_aloud() -> None:
    echo = build_engine(ModelSpec(id="m", source="echo", engine="echo"), Settings())
    with pytest.raises(UnsupportedWorkError, match="'speech'"):
        speak(echo, WORK, Said())


def test_without_its_packages_the_line_that_installs_them_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "is_installed", lambda name: name != "mlx_audio")
    with pytest.raises(ModelUnavailableError, match=r"mlx_audio cannot be found; install .*mlx-gateway\[.*voice"):
        load(stand_in_voice.build_voices(tmp_path / "m"))
