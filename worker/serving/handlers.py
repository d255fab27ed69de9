"""How each kind of work is done on a worker: the registry of kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.events import Event, Usage
from shared.work import KINDS, Count, Embed, Generate, Speak, Transcribe, Work
from worker.engines.base import Engine, Say
from worker.serving.counting import count
from worker.serving.embedding import embed
from worker.serving.speech import speak
from worker.serving.transcription import transcribe


@dataclass(frozen=True, slots=True, kw_only=True)
class InBatch:
    """Prepared on one of `threads`, then submitted to the engine, whose outputs answer it."""

    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Done on one of `threads` of its own, beside the engine's batch and never behind it. `answer` gives the event that
    answers and ends it, and raises what the client is told; it may run on several threads at once."""

    threads: int
    answer: Callable[[Engine, Any], tuple[Event, Usage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InParts:
    """As `Beside`, and told of while it is done: `answer` gets what tells, too."""

    threads: int
    answer: Callable[[Engine, Any, Say], tuple[Event, Usage]]


HANDLERS: Mapping[type[Work], InBatch | Beside | InParts] = {
    Generate: InBatch(threads=4),
    Count: Beside(threads=8, answer=count),
    Embed: Beside(threads=4, answer=embed),
    Transcribe: InParts(threads=4, answer=transcribe),
    Speak: InParts(threads=4, answer=speak),
}
THREADS_BESIDE = {KINDS[cls].lane: handler.threads for cls, handler in HANDLERS.items() if KINDS[cls].lane}
