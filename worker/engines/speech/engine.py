"""The engine of models of speech, by mlx-audio: sentence after sentence, in turns with other work on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import Settings
from shared.errors import InvalidRequestError, ModelUnavailableError, RequestCancelledError
from shared.events import Event, Sound, Spoken, Started, Usage
from shared.extras import install_line, is_installed
from shared.options import read_options
from shared.registry import ModelSpec
from shared.work import KINDS, Speak
from worker.engines.base import EngineInfo, Say
from worker.engines.beside import EngineBeside
from worker.engines.speech.encoder import encoder_of
from worker.engines.speech.model import SpeechModel, load_speech
from worker.engines.speech.pieces import pieces_of

log = logging.getLogger(__name__)

_TOKENS_PER_S = 50  # of sound, as in transcripts
_BYTES_PER_TOKEN = 4


class SpeechEngine(EngineBeside):
    """See the module's text and `worker.engines.base.Speaker`."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        super().__init__(spec, settings)
        self._model: SpeechModel | None = None

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        missing = [name for name in ("mlx_audio", "av") if not is_installed(name)]
        if missing:
            line = install_line("voice")
            raise ModelUnavailableError(f"{' and '.join(missing)} cannot be found; install what speech needs: {line}")
        report(0.0)
        model = self._model = self.on_device(self._load)
        report(1.0)
        log.info("loaded %s: %d Hz, voices: %s", self.spec.source, model.rate, ", ".join(model.voices) or "its own")
        return EngineInfo(context_tokens=0, kinds=(KINDS[Speak].name,), gives_token_ids=False)

    def _load(self) -> SpeechModel:
        with self.turn():
            return load_speech(self.find_folder(), read_options("speech", self.spec.options))

    def speak(self, work: Speak, say: Say) -> Spoken:
        model = self._model
        assert model is not None
        pieces = pieces_of(work.text)
        if not pieces:
            raise InvalidRequestError("input: there is nothing to say", param="input")
        options = model.options(voice=work.voice, speed=work.speed, instructions=work.instructions)
        input_tokens = -(-len(work.text.encode()) // _BYTES_PER_TOKEN)
        _tell(say, Started(usage=Usage(input_tokens=input_tokens)))
        encoder, samples = encoder_of(work.form, model.rate), 0
        for piece in pieces:
            for part in self._said(model, piece, options, say):
                samples += len(part)
                _tell_sound(say, encoder.feed(part))
        _tell_sound(say, encoder.end())
        duration_s = samples / model.rate
        return Spoken(duration_s=duration_s, input_tokens=input_tokens, output_tokens=round(duration_s * _TOKENS_PER_S))

    def _said(
        self, model: SpeechModel, piece: str, options: Mapping[str, Any], say: Say
    ) -> Iterator[NDArray[np.float32]]:
        """Each step on the device's thread, where others' come between."""
        coming = model.say(piece, options)
        while (part := self.on_device(partial(self._next, coming, say))) is not None:
            yield part

    def _next(self, coming: Iterator[NDArray[np.float32]], say: Say) -> NDArray[np.float32] | None:
        _tell(say)
        with self.turn():
            return next(coming, None)

    def unload(self, timeout_s: float) -> bool:
        has_ended = super().unload(timeout_s)
        self._model = None
        return has_ended


def _tell(say: Say, *events: Event) -> None:
    """Raises `RequestCancelledError` once nobody wants more."""
    if not say(*events):
        raise RequestCancelledError("the request was cancelled")


def _tell_sound(say: Say, data: bytes) -> None:
    if data:
        _tell(say, Sound(data=data))
