"""Counting the tokens of a prompt: work for the tokenizer alone."""

from __future__ import annotations

from shared.errors import UnsupportedWorkError
from shared.events import Counted, Usage
from shared.work import KINDS, Count
from worker.engines.base import Engine


def count(engine: Engine, work: Count) -> tuple[Counted, Usage]:
    """Raises what `Engine.count` raises, and `UnsupportedWorkError` where the engine cannot know."""
    tokens = engine.count(work.request)
    if tokens is None:
        raise UnsupportedWorkError.of(KINDS[Count].name, work.request.model)
    return Counted(input_tokens=tokens), Usage(input_tokens=tokens)
