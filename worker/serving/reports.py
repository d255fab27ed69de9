"""What the runner tells the worker's control loop: how loading goes, and how requests end."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import GatewayError
from shared.events import Usage
from worker.engines.base import EngineInfo
from worker.serving.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Ended:
    """A request is over here. `error` None means that it finished."""

    ticket: Ticket
    error: GatewayError | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class Loading:
    """`done` is 0..1."""

    done: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is ready to be asked."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model cannot be loaded; the runner's thread has ended."""

    error: GatewayError


@dataclass(frozen=True, slots=True)
class Broken:
    """The engine raised out of `step`; it is not used any more."""

    error: BaseException


Report = Ended | Loading | Loaded | LoadFailed | Broken


@dataclass(slots=True)
class Totals:
    """Counted since the start, for the metrics."""

    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    restored_tokens: int = 0
    output_tokens: int = 0
