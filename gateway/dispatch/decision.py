"""What becomes of a request when something is known of its attempt: a pure decision over plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from shared.errors import GatewayError, UnsupportedWorkError, WireError, WorkerLostError
from shared.events import ReturnReason

MOST_ATTEMPTS = 3  # the first, and two elsewhere
MOST_RETURNS = 16  # of work that nobody has begun
MOST_BUSY = 3  # of these, by workers that were busy while there was no other: a quarter of a second each


class Decision(Enum):
    DELIVER = auto()  # nothing is wrong: what came is passed on
    TRY_ELSEWHERE = auto()  # from the beginning, on another worker
    GO_ON_ELSEWHERE = auto()  # at the next token, on another worker
    FAIL = auto()  # the client is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One request. `fault` is what happened to its attempt, None when nothing did.

    `is_returned`: the worker had not begun it. `attempts`: made so far, without those that were returned; `returns`:
    how many were. `remaining_s`: until its work must have begun. `has_answer`: a part of the answer itself
    was told. `can_resume`: another worker can be given the tokens of everything that was told. `has_place`: a worker
    that has not tried can take it now, or it may wait for one.
    """

    fault: GatewayError | None
    is_returned: bool = False
    attempts: int = 1
    returns: int = 0
    remaining_s: float = 0.0
    has_answer: bool = False
    can_resume: bool = False
    has_place: bool = False


def decide(standing: Standing) -> Decision:
    """A client hears of a worker's trouble only when nobody else can give it the same answer."""
    if standing.fault is None:
        return Decision.DELIVER
    if not standing.has_place or not _may_try_again(standing, standing.fault):
        return Decision.FAIL
    if standing.has_answer:  # it was begun in time
        return Decision.GO_ON_ELSEWHERE if standing.can_resume else Decision.FAIL
    return Decision.TRY_ELSEWHERE if standing.remaining_s > 0 else Decision.FAIL


def _may_try_again(standing: Standing, fault: GatewayError) -> bool:
    """What was returned was no try: nothing was done of it."""
    if standing.is_returned:
        return standing.returns <= MOST_RETURNS
    return is_of_worker(fault) and standing.attempts < MOST_ATTEMPTS


def may_wait(returned: Sequence[ReturnReason | None]) -> bool:
    """Whether work that nobody can take now waits for a worker, after what became of its attempts, the last one last:
    for the one that replaces a worker that left, and for a short while for one that was busy. After that its client
    hears that it is, and when to ask again."""
    if returned[-1] == "busy":
        return returned.count("busy") <= MOST_BUSY
    return returned[-1] == "leaving"


def is_of_worker(fault: GatewayError) -> bool:
    """Whether another worker may do better: this one died, stopped, or could not read what it was given (a body that
    is gone, another secret or version), or its engine does not do such work."""
    return isinstance(fault, WorkerLostError | WireError | UnsupportedWorkError)
