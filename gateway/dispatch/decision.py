"""What becomes of a request when something is known of its attempt: a pure decision over plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from shared.errors import GatewayError, UnsupportedWorkError, WireError, WorkerLostError

MOST_ATTEMPTS = 3  # the first, and two elsewhere


class Decision(Enum):
    DELIVER = auto()  # nothing is wrong: what came is passed on
    TRY_ELSEWHERE = auto()  # from the beginning, on another worker
    GO_ON_ELSEWHERE = auto()  # at the next token, on another worker
    FAIL = auto()  # the client is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One request. `fault` is what happened to its attempt, None when nothing did.

    `attempts`: made so far. `remaining_s`: until its work must have begun. `has_answer`: a part of the answer itself
    was told. `can_resume`: another worker can be given the tokens of everything that was told. `has_place`: a worker
    that has not tried can take it now.
    """

    fault: GatewayError | None
    attempts: int = 1
    remaining_s: float = 0.0
    has_answer: bool = False
    can_resume: bool = False
    has_place: bool = False


def decide(standing: Standing) -> Decision:
    """A client hears of a worker's trouble only when nobody else can give it the same answer."""
    if standing.fault is None:
        return Decision.DELIVER
    if not (is_of_worker(standing.fault) and standing.has_place) or standing.attempts >= MOST_ATTEMPTS:
        return Decision.FAIL
    if standing.has_answer:  # it was begun in time
        return Decision.GO_ON_ELSEWHERE if standing.can_resume else Decision.FAIL
    return Decision.TRY_ELSEWHERE if standing.remaining_s > 0 else Decision.FAIL


def is_of_worker(fault: GatewayError) -> bool:
    """Whether another worker may do better: this one died, stopped, or could not read what it was given (a body that
    is gone, another secret or version), or its engine does not do such work."""
    return isinstance(fault, WorkerLostError | WireError | UnsupportedWorkError)
