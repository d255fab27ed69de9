"""What becomes of a request when something is known of its attempt: a pure decision over plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from shared.errors import GatewayError, WireError, WorkerLostError

MOST_ATTEMPTS = 3  # the first, and two elsewhere


class Decision(Enum):
    DELIVER = auto()  # nothing is wrong: what came is passed on
    TRY_ELSEWHERE = auto()  # from the beginning, on another worker
    GO_ON_ELSEWHERE = auto()  # at the next token, on another worker
    FAIL = auto()  # the client is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One request. `fault` is what happened to its attempt, None when nothing did.

    `is_over`: the attempt's worker does nothing more for it. `attempts`: made so far. `remaining_s`: until its work
    must have begun. `has_answer`: a part of the answer itself was told. `can_resume`: another worker can be given the
    tokens of everything that was told. `has_place`: a worker that has not tried can take it now.
    """

    fault: GatewayError | None
    is_over: bool = True
    attempts: int = 1
    remaining_s: float = 0.0
    has_answer: bool = False
    can_resume: bool = False
    has_place: bool = False


def decide(standing: Standing) -> Decision:
    """A client hears of a worker's trouble only when nobody else can give it the same answer."""
    if standing.fault is None:
        return Decision.DELIVER
    may_move = is_of_worker(standing.fault) and standing.is_over and standing.has_place
    if not may_move or standing.attempts >= MOST_ATTEMPTS or standing.remaining_s <= 0:
        return Decision.FAIL
    if not standing.has_answer:
        return Decision.TRY_ELSEWHERE
    return Decision.GO_ON_ELSEWHERE if standing.can_resume else Decision.FAIL


def is_of_worker(fault: GatewayError) -> bool:
    """Whether another worker may do better: this one died, stopped, or could not read what it was given (a body that
    is gone, another secret or version)."""
    return isinstance(fault, WorkerLostError | WireError)
