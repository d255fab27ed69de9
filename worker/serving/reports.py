"""What the runner tells the worker's control loop: how loading goes, and how requests end."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import GatewayError, RequestCancelledError
from shared.events import Usage, known
from shared.request import Resume
from worker.engines.base import EngineInfo
from worker.serving.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Ended:
    """A request is over here. `error` None means that it finished. `is_returned`: it was not begun, and its gateway
    makes another attempt."""

    ticket: Ticket
    error: GatewayError | None
    usage: Usage
    is_returned: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The engine has the request's prompt, and counts it among those that wait for it."""

    ticket: Ticket


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


Report = Ended | Accepted | Loading | Loaded | LoadFailed | Broken


@dataclass(slots=True)
class Totals:
    """Counted since the start, for the metrics. The prompt of a resumed attempt is counted apart: the attempt that
    began the answer, elsewhere, has counted it; and of its answer only what was generated here."""

    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    returned: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    restored_tokens: int = 0
    output_tokens: int = 0
    resumed_tokens: int = 0

    def count(self, error: GatewayError | None, usage: Usage, resume: Resume | None, *, is_returned: bool) -> None:
        """Note the end of an attempt. Of what went back nothing was done."""
        if is_returned:
            self.returned += 1
            return
        is_cancelled = isinstance(error, RequestCancelledError)
        self.finished += error is None
        self.cancelled += is_cancelled
        self.failed += error is not None and not is_cancelled
        if resume is not None:
            self.resumed_tokens += known(usage.input_tokens)
            self.output_tokens += max(0, known(usage.output_tokens) - len(resume.token_ids))
            return
        self.input_tokens += known(usage.input_tokens)
        self.cached_tokens += known(usage.cached_tokens)
        self.restored_tokens += known(usage.restored_tokens)
        self.output_tokens += known(usage.output_tokens)
