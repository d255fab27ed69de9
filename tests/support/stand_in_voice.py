"""A stand-in for mlx-audio: each character is a tone of ten milliseconds, or of `STAND_IN_CHARACTER_S`. As a program it
is a worker with it.

It proves the way from a request to sound and what of a model's parameters is passed on. It does not prove that a model
of mlx-audio is loaded and speaks: mlx-audio brings scipy and a library of sound cards, so that tests do without it.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import mlx.core as mx

from tests.support.sounds import tone
from worker.__main__ import main

RATE = 32_000
CHARACTER_S = float(os.environ.get("STAND_IN_CHARACTER_S", "0.01"))


class StandIn:
    sample_rate = RATE

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def generate(self, text: str, voice: str | None = None, speed: float = 1.0, lang_code: str = "a") -> Iterator[Any]:
        self.asked.append({"text": text, "voice": voice, "speed": speed, "lang_code": lang_code})
        if "unspeakable" in text:
            raise RuntimeError("it cannot be said")
        for word in text.split():
            samples = tone(len(word) * CHARACTER_S / speed, rate=RATE) / 32768.0
            yield types.SimpleNamespace(audio=mx.array(samples), sample_rate=RATE)


def install(model: Callable[[], Any] = StandIn) -> None:
    """In place of mlx-audio, in this process."""
    for name in ("mlx_audio", "mlx_audio.tts", "mlx_audio.tts.utils"):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
    sys.modules["mlx_audio.tts.utils"].load = lambda folder: model()  # type: ignore[attr-defined]


def build_voices(folder: Path, *names: str) -> Path:
    """A model's folder, with voices of these names."""
    (folder / "voices").mkdir(parents=True)
    for name in names:
        mx.save_safetensors(str(folder / "voices" / f"{name}.safetensors"), {"voice": mx.zeros(1)})
    return folder


if __name__ == "__main__":
    install()
    sys.exit(main())
