"""Sound in, transcripts out: decoding, the rules of marks and windows, words, languages. The model of these tests says
what it is told to; that a real one's words are right is shown by `test_real_weights_hear_what_is_said`."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.config import Settings
from shared.errors import (
    InvalidRequestError,
    ModelUnavailableError,
    RequestCancelledError,
    UnsupportedContentError,
    UnsupportedWorkError,
)
from shared.events import Event, Heard, Started
from shared.registry import ModelSpec
from shared.request import GenerateRequest
from shared.work import Transcribe
from tests.models.whisper_checkpoint import build_whisper
from tests.support.sounds import FORMS, encoded, tone, wav
from worker.engines.registry import build_engine
from worker.engines.transcription import engine as engine_module
from worker.engines.transcription.engine import TranscriptionEngine
from worker.engines.transcription.languages import code_of
from worker.engines.transcription.mel import log_mel
from worker.engines.transcription.rules import rule
from worker.engines.transcription.tokens import Tokens
from worker.engines.transcription.words import _warped
from worker.files import messages, sound
from worker.files.sound import sound_samples
from worker.serving.transcription import transcribe

REQUEST = GenerateRequest(id="r", model="m", messages=())
WORK = Transcribe(request=REQUEST, sound=wav(2.0))


class Said:
    """Hears what an engine says, and wants no more after so many events."""

    def __init__(self, most: float = math.inf) -> None:
        self.events: list[Event] = []
        self._most = most

    def __call__(self, *events: Event) -> bool:
        self.events += events
        return len(self.events) < self._most


def load(folder: Path, **options: Any) -> TranscriptionEngine:
    build_whisper(folder, **options)
    engine = build_engine(ModelSpec(id="m", source=str(folder), engine="transcription"), Settings(state_dir=Path("s")))
    assert isinstance(engine, TranscriptionEngine)
    info = engine.load(lambda _: None)
    assert info.kinds == ("transcribe",)
    return engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TranscriptionEngine]:
    one = load(tmp_path_factory.mktemp("whisper"))
    yield one
    assert one.unload(1.0)


def test_a_recording_becomes_segments_with_their_times(engine: TranscriptionEngine) -> None:
    said = Said()
    made = engine.transcribe(WORK, said)
    assert made.text == "hello world and again."
    assert [(one.start_s, one.end_s, one.text) for one in made.segments] == [
        (0.0, 1.0, " hello world"),
        (1.0, 2.0, " and again."),
    ]
    assert (made.language, made.duration_s, made.input_tokens) == ("de", 2.0, 100)
    assert made.output_tokens == 5, "four words and a full stop"
    assert [type(event) for event in said.events] == [Started]


def test_segments_are_told_while_more_is_made(engine: TranscriptionEngine) -> None:
    said = Said()
    made = engine.transcribe(replace(WORK, in_parts=True), said)
    heard = [event.segment.text for event in said.events if isinstance(event, Heard)]
    assert (heard, made.segments) == ([" hello world", " and again."], ())


def test_a_long_recording_goes_on_window_by_window(engine: TranscriptionEngine) -> None:
    made = engine.transcribe(replace(WORK, sound=wav(35.0)), Said())
    assert made.duration_s == 35.0
    starts = [one.start_s for one in made.segments]
    assert starts == sorted(starts)
    assert made.segments[0].text == " hello world"
    assert all(one.end_s <= 35.0 for one in made.segments)


def test_words_have_times_within_the_sound_and_make_the_text(engine: TranscriptionEngine) -> None:
    made = engine.transcribe(replace(WORK, with_words=True), Said())
    words = [word for segment in made.segments for word in segment.words]
    assert [word.text for word in words] == [" hello", " world", " and", " again."]
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0.0 <= times[0] <= times[-1] <= 2.0


def test_both_layouts_of_weights_say_the_same(tmp_path: Path, engine: TranscriptionEngine) -> None:
    other = load(tmp_path / "hf", layout="transformers")
    try:
        assert other.transcribe(WORK, Said()) == engine.transcribe(WORK, Said())
    finally:
        other.unload(1.0)


def test_a_language_is_found_out_or_asked_for(engine: TranscriptionEngine) -> None:
    assert engine.transcribe(replace(WORK, language="en"), Said()).language == "en"
    assert engine.transcribe(replace(WORK, language="Japanese"), Said()).language == "ja"
    with pytest.raises(InvalidRequestError, match="language: this model does not know it; it knows: de, en, ja"):
        engine.transcribe(replace(WORK, language="fr"), Said())
    assert (code_of("en-US"), code_of("English"), code_of("klingon")) == ("en", "en", "klingon")


def test_a_model_of_english_alone_translates_nothing(tmp_path: Path) -> None:
    one = load(tmp_path / "en", is_multilingual=False)
    try:
        assert one.transcribe(WORK, Said()).language == "en"
        with pytest.raises(InvalidRequestError, match="translates nothing"):
            one.transcribe(replace(WORK, task="translate"), Said())
        with pytest.raises(InvalidRequestError, match="it knows: en"):
            one.transcribe(replace(WORK, language="de"), Said())
    finally:
        one.unload(1.0)


def test_what_nobody_wants_any_more_is_left(engine: TranscriptionEngine) -> None:
    said = Said(most=2)
    with pytest.raises(RequestCancelledError):
        engine.transcribe(replace(WORK, sound=wav(300.0), in_parts=True), said)
    assert len(said.events) == 2


def test_a_device_that_hangs_shows(engine: TranscriptionEngine) -> None:
    assert engine.stats().stalled_s == 0.0
    with engine.turn():
        assert engine.stats().stalled_s is not None
    assert engine.stats().stalled_s == 0.0


def test_other_engines_hear_nothing() -> None:
    echo = build_engine(ModelSpec(id="m", source="echo", engine="echo"), Settings())
    with pytest.raises(UnsupportedWorkError, match="'transcription'"):
        transcribe(echo, WORK, Said())


def test_without_the_decoder_the_line_that_installs_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "is_installed", lambda name: name != "av")
    with pytest.raises(ModelUnavailableError, match=r"install .*mlx-gateway\[.*voice"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("tokenizer.json", r"no tokenizer\.json: put that of the openai/whisper model"),
        ("weights.safetensors", "no weights"),
        ("config.json", "no config"),
    ],
)
def test_a_folder_that_lacks_something_says_what(tmp_path: Path, broken: str, words: str) -> None:
    build_whisper(tmp_path)
    (tmp_path / broken).unlink()
    with pytest.raises(ModelUnavailableError, match=words):
        build_engine(ModelSpec(id="m", source=str(tmp_path), engine="transcription"), Settings())


# --- sound -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_decoded_to_one_channel_at_16_khz(form: str) -> None:
    samples = sound_samples(encoded(form, 1.0))
    assert abs(len(samples) - 16_000) < 2_000  # codecs pad
    power = np.abs(np.fft.rfft(samples[:16_000].astype(float)))
    assert abs(int(power.argmax()) - 1000 * len(samples[:16_000]) // 16_000) < 5


def test_wav_of_any_rate_and_channels_is_decoded() -> None:
    assert np.array_equal(sound_samples(wav(0.5)), tone(0.5))
    assert len(sound_samples(wav(0.5, rate=44_100, channels=2))) == 8_000


@pytest.mark.parametrize(
    "raw",
    [
        b"no sound",
        b"RIFF\x00\x00\x00\x00WAVE",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        wav(0.0),
        b"\x1a\x45\xdf\xa3" + bytes(64),
        b"OggS" + bytes(64),
        b"ID3" + bytes(200),
    ],
)
def test_what_is_no_sound_is_refused_in_the_vendors_words(raw: bytes) -> None:
    with pytest.raises(UnsupportedContentError, match="Invalid file format"):
        sound_samples(raw)


def lying(at: int, form: str, value: int) -> bytes:
    """A WAV file of half a second whose header says something else there."""
    raw = bytearray(wav(0.5))
    struct.pack_into(form, raw, at, value)
    return bytes(raw)


@pytest.mark.parametrize("said", [0, 2**31, 2**32 - 1])
@pytest.mark.parametrize("at", [4, 40])
def test_a_wav_file_whose_length_cannot_be_is_read_to_its_end(at: int, said: int) -> None:
    assert np.array_equal(sound_samples(lying(at, "<I", said))[: len(tone(0.5)) - 1], tone(0.5)[:-1])


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        *((16, "<I", value) for value in (0, 2**32 - 1)),  # the length of what describes it
        *((20, "<H", value) for value in (0x55, 0xFFFE)),  # another codec
        *((22, "<H", value) for value in (0, 300, 65_535)),  # channels
        *((24, "<I", value) for value in (0, 2_000_000_000, 2**32 - 1)),  # samples a second
        *((34, "<H", value) for value in (0, 65_535)),  # bits of a sample
    ],
)
def test_a_wav_file_that_cannot_be_what_it_says_is_refused(at: int, form: str, value: int) -> None:
    with pytest.raises(UnsupportedContentError, match="Invalid file format"):
        sound_samples(lying(at, form, value))


def test_a_wav_file_of_one_sample_a_second_is_as_long_as_it_says() -> None:
    with pytest.raises(UnsupportedContentError, match="lasts longer"):
        sound_samples(lying(24, "<I", 1))


def test_sound_that_lasts_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "MAX_SOUND_S", 1)
    with pytest.raises(UnsupportedContentError, match=f"longer than {messages.MAX_SOUND_S // 60} minutes"):
        sound_samples(wav(1.1))
    assert len(sound_samples(wav(1.0))) == 16_000


def test_the_engine_decodes_in_a_process_of_its_own(engine: TranscriptionEngine) -> None:
    with pytest.raises(UnsupportedContentError, match="Invalid file format"):
        engine.transcribe(replace(WORK, sound=b"no sound"), Said())
    assert engine.transcribe(replace(WORK, sound=encoded("mp3", 2.0)), Said()).text == "hello world and again."


def test_a_tone_is_loud_in_its_own_band() -> None:
    mel = log_mel(tone(1.0, hz=1000.0), 80)
    assert mel.shape == (3000, 80)
    step = (15 + math.log(8) / (math.log(6.4) / 27)) / 81  # mel from band to band: 8 kHz is eight times the bend at 15
    assert int(mel[50].argmax()) == round(15 / step) - 1, "1 kHz is 15 mel"
    assert mel[:95].max() == mel.max() > 0 > mel[200:].max() - mel.max()


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens.of(build_whisper(tmp_path_factory.mktemp("tokens")), is_multilingual=True)


def allowed(tokens: Tokens, said: list[int], *, likely: int | None = None) -> set[int]:
    logits = np.zeros(tokens.tokenizer.get_vocab_size(), np.float32)
    if likely is not None:
        logits[likely] = 50.0
    return {number for number, value in enumerate(rule(logits, said, tokens)) if np.isfinite(value)}


def test_a_transcript_begins_with_a_mark_within_its_first_second(tokens: Tokens) -> None:
    first = tokens.first_time
    assert allowed(tokens, []) == set(range(first, first + 51))


def test_marks_stand_in_pairs_and_never_run_back(tokens: Tokens) -> None:
    first, (word,) = tokens.first_time, tokens.ids("a")
    after_opening = allowed(tokens, [first], likely=word)
    assert word in after_opening
    assert not after_opening & set(range(first, first + 10))
    after_end = allowed(tokens, [first, word, first + 9], likely=tokens.end)
    assert word not in after_end
    assert {tokens.end, first + 9, first + 10} <= after_end
    assert first + 8 not in after_end
    in_text = allowed(tokens, [first + 3, word], likely=word)
    assert first + 3 not in in_text
    assert first + 4 in in_text


def test_a_mark_that_is_likelier_than_every_word_is_said(tokens: Tokens) -> None:
    first, (word,) = tokens.first_time, tokens.ids("a")
    assert min(allowed(tokens, [first, word])) > first, "together the marks are likelier than each word"


def test_nobody_says_signs_or_control(tokens: Tokens) -> None:
    first, (word,) = tokens.first_time, tokens.ids("a")
    may = allowed(tokens, [first, word], likely=word)
    for text in ("[", "#", "*"):
        assert not set(tokens.ids(text)) & may
    assert not {tokens.start, tokens.before, tokens.silence, tokens.untimed, *tokens.languages.values()} & may
    assert set(tokens.ids("a.,!?")) <= may


def test_the_cheapest_path_goes_through_the_cheap_places() -> None:
    cost = np.ones((3, 6))
    for row, column in ((0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)):
        cost[row, column] = 0.0
    rows, columns = _warped(cost)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
