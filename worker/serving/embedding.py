"""Vectors of texts, by an engine that makes them."""

from __future__ import annotations

from shared.errors import UnsupportedWorkError
from shared.events import Embedded, Usage
from shared.work import KINDS, Embed
from worker.engines.base import Embedder, Engine


def embed(engine: Engine, work: Embed) -> tuple[Embedded, Usage]:
    """Raises what `Embedder.embed` raises, and `UnsupportedWorkError` where the engine is none."""
    if not isinstance(engine, Embedder):
        raise UnsupportedWorkError.of(KINDS[Embed].name, work.request.model)
    made = engine.embed(work)
    return made, Usage(input_tokens=made.input_tokens)
