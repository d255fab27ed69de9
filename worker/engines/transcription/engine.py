"""The engine of Whisper models. Sound is decoded in a process of its own; what touches the device goes there window by
window, so that several recordings are written down side by side.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from shared.config import Settings
from shared.errors import InvalidRequestError, ModelUnavailableError, RequestCancelledError
from shared.events import Heard, Segment, Started, Transcribed, Usage
from shared.extras import install_line, is_installed
from shared.registry import ModelSpec
from shared.work import KINDS, Transcribe
from worker.engines.base import EngineInfo, Say
from worker.engines.beside import EngineBeside
from worker.engines.transcription.languages import code_of
from worker.engines.transcription.mel import SAMPLES_PER_S
from worker.engines.transcription.model import WhisperModel, load_whisper
from worker.engines.transcription.tokens import MARKS_PER_S
from worker.engines.transcription.transcript import Asked, Samples, language_of, segments
from worker.engines.transcription.window import Reader
from worker.files.reader import FileReader

log = logging.getLogger(__name__)

_DECODES_WITHIN_S: Final = 120.0  # hours of sound


class TranscriptionEngine(EngineBeside):
    """See the module's text and `worker.engines.base.Transcriber`."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        super().__init__(spec, settings)
        self._files = FileReader(patience_s=_DECODES_WITHIN_S)
        self._model: WhisperModel | None = None

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        if not is_installed("av"):
            raise ModelUnavailableError(f"sound cannot be decoded here; install what does: {install_line('voice')}")
        report(0.0)
        model = self._model = self.on_device(self._load)
        report(1.0)
        log.info("loaded %s: %d languages", self.spec.source, max(1, len(model.tokens.languages)))
        return EngineInfo(context_tokens=model.config.tokens, kinds=(KINDS[Transcribe].name,), gives_token_ids=False)

    def _load(self) -> WhisperModel:
        with self.turn():
            return load_whisper(self.find_folder())

    def transcribe(self, work: Transcribe, say: Say) -> Transcribed:
        model = self._model
        assert model is not None
        _check(model, work)
        samples = self._files.sound_samples(work.sound)
        duration_s = len(samples) / SAMPLES_PER_S
        heard_tokens = round(duration_s * MARKS_PER_S)
        _tell(say, Started(usage=Usage(input_tokens=heard_tokens)))
        reader = Reader(
            model=model.network,
            tokens=model.tokens,
            context=model.config.tokens,
            turn=self.turn,
            check=partial(_tell, say),
        )
        asked = self._asked(model, work, reader, samples)
        made = self._segments(reader, samples, asked, say if work.in_parts else None)
        return Transcribed(
            language=asked.language,
            duration_s=duration_s,
            segments=() if work.in_parts else tuple(made),
            input_tokens=heard_tokens,
            output_tokens=sum(len(segment.token_ids) for segment in made),
        )

    def _asked(self, model: WhisperModel, work: Transcribe, reader: Reader, samples: Samples) -> Asked:
        language, bands = code_of(work.language), model.config.bands
        if not language:
            language = self.on_device(partial(language_of, reader, samples, bands)) or "en"
        return Asked(
            language=language,
            task=work.task,
            prompt=work.prompt,
            temperature=work.temperature,
            bands=bands,
            heads=model.heads if work.with_words else (),
        )

    def _segments(self, reader: Reader, samples: Samples, asked: Asked, say: Say | None) -> list[Segment]:
        """One step of the iteration after another goes to the device's thread, where others' come between."""
        made: list[Segment] = []
        coming = segments(reader, samples, asked)
        while (segment := self.on_device(partial(next, coming, None))) is not None:
            made.append(segment)
            if say is not None:
                _tell(say, Heard(segment=segment))
        return made

    def unload(self, timeout_s: float) -> bool:
        has_ended = super().unload(timeout_s)
        self._model = None
        self._files.close()
        return has_ended


def _tell(say: Say, *events: Started | Heard) -> None:
    """Raises `RequestCancelledError` once nobody wants more."""
    if not say(*events):
        raise RequestCancelledError("the request was cancelled")


def _check(model: WhisperModel, work: Transcribe) -> None:
    languages = model.tokens.languages
    code = code_of(work.language)
    if work.language and code not in (languages or {"en"}):
        known = ", ".join(languages) or "en"
        raise InvalidRequestError(f"language: this model does not know it; it knows: {known}", param="language")
    if work.task == "translate" and not languages:
        raise InvalidRequestError("model: it knows English alone, and translates nothing", param="model")
