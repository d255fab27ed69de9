"""Sound for a browser's microphone, and what comes out of its loudspeaker."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.support.browser import Page

RATE: Final = 16_000

# Before any script of a page: whatever goes to the loudspeaker is heard here, too, as samples of the context's rate.
EAR: Final = """
window.heard = { rate: 0, parts: [] };
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...more) {
  if (to instanceof AudioDestinationNode && this instanceof AnalyserNode && !this.ear) {
    this.ear = this.context.createScriptProcessor(4096, 1, 1);
    window.heard.rate = this.context.sampleRate;
    this.ear.onaudioprocess = ({ inputBuffer }) => window.heard.parts.push(inputBuffer.getChannelData(0).slice());
    connect.call(this, this.ear);
    connect.call(this.ear, to);
  }
  return connect.call(this, to, ...more);
};
"""
_ALL = """(() => {
  const all = new Int16Array(window.heard.parts.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const x of window.heard.parts.flatMap((part) => [...part])) all[at++] = 32767 * Math.max(-1, Math.min(1, x));
  const bytes = new Uint8Array(all.buffer);
  let text = "";
  for (let n = 0; n < bytes.length; n += 8192) text += String.fromCharCode(...bytes.subarray(n, n + 8192));
  return [window.heard.rate, btoa(text)];
})()"""


def speech_like(seconds: float, *, seed: int = 0) -> NDArray[np.int16]:
    """Syllables of a buzz of many harmonics, a quarter of a second each: no words, but what passes for a voice."""
    chance = np.random.default_rng(seed)
    parts: list[NDArray[np.float64]] = []
    for _ in range(round(seconds * 4)):
        t = np.arange(RATE // 4) / RATE
        pitch = 110 + 60 * chance.random()
        buzz = sum(np.sin(2 * np.pi * pitch * n * t) / (1 + abs(n - 6)) for n in range(1, 24))
        envelope = np.clip(np.sin(np.pi * np.minimum(1.0, t / 0.2)), 0, None)
        parts.append(envelope * np.asarray(buzz))
    samples = np.concatenate(parts)
    return (9000 * samples / np.max(np.abs(samples))).astype(np.int16)


def microphone_file(path: Path, said: NDArray[np.int16], *, before_s: float = 1.5, after_s: float = 3.0) -> Path:
    """With the quiet of a room around it. A browser's microphone plays it from when it is opened."""
    chance = np.random.default_rng(1)
    around = [(20 * chance.standard_normal(round(seconds * RATE))).astype(np.int16) for seconds in (before_s, after_s)]
    path.write_bytes(wav_of(np.concatenate([around[0], said, around[1]]), RATE))
    return path


def wav_of(samples: NDArray[np.int16], rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def microphone_flags(path: Path, *, loops: bool = False, is_given: bool = True) -> tuple[str, ...]:
    """For a browser whose microphone plays this file, once or again and again. Not `is_given`: it has a page's
    permission to wait for."""
    return (
        "--use-fake-device-for-media-stream",
        *(("--use-fake-ui-for-media-stream",) if is_given else ()),
        f"--use-file-for-fake-audio-capture={path}{'' if loops else '%noloop'}",
        "--autoplay-policy=no-user-gesture-required",
    )


def heard(page: Page) -> tuple[int, NDArray[np.int16]]:
    """(rate, samples) of all that came out."""
    rate, text = page.run(_ALL)
    return int(rate), np.frombuffer(base64.b64decode(text), np.int16)
