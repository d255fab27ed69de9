"""A text said aloud, by an engine that speaks."""

from __future__ import annotations

from shared.errors import UnsupportedWorkError
from shared.events import Spoken, Usage
from shared.work import KINDS, Speak
from worker.engines.base import Engine, Say, Speaker


def speak(engine: Engine, work: Speak, say: Say) -> tuple[Spoken, Usage]:
    """Raises what `Speaker.speak` raises, and `UnsupportedWorkError` where the engine is none."""
    if not isinstance(engine, Speaker):
        raise UnsupportedWorkError.of(KINDS[Speak].name, work.request.model)
    made = engine.speak(work, say)
    return made, Usage(input_tokens=made.input_tokens, output_tokens=made.output_tokens)
