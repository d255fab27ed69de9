"""What is said in a sound file, by an engine that hears."""

from __future__ import annotations

from shared.errors import UnsupportedWorkError
from shared.events import Transcribed, Usage
from shared.work import KINDS, Transcribe
from worker.engines.base import Engine, Say, Transcriber


def transcribe(engine: Engine, work: Transcribe, say: Say) -> tuple[Transcribed, Usage]:
    """Raises what `Transcriber.transcribe` raises, and `UnsupportedWorkError` where the engine is none."""
    if not isinstance(engine, Transcriber):
        raise UnsupportedWorkError.of(KINDS[Transcribe].name, work.request.model)
    made = engine.transcribe(work, say)
    return made, Usage(input_tokens=made.input_tokens, output_tokens=made.output_tokens)
