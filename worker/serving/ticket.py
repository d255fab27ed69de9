"""The one function an RQ job may name, and what it makes of the job's arguments.

A gateway enqueues the dotted name `shared.keys.JOB_FUNCTION` with `[request id, attempt, signature, kind of work]` and
keeps the body in `req:{id}`. The name is looked up in an allow-list (`worker.rq.safe_job`); it is never imported from
data.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import WireError
from shared.work import KINDS, KINDS_BY_NAME, Generate


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a job says of its request: enough to find the body and to check who wrote it."""

    request_id: str
    attempt: int
    signature: str
    kind: str = KINDS[Generate].name


def run(request_id: str, attempt: int, signature: str, kind: str) -> Ticket:
    """The job as a ticket for the runner. Raises `WireError` for arguments of the wrong types."""
    if not (isinstance(request_id, str) and isinstance(attempt, int) and isinstance(signature, str)):
        raise WireError("job arguments: expected request id, attempt, signature and kind")
    if not (isinstance(kind, str) and kind in KINDS_BY_NAME):
        raise WireError(f"work of the kind {kind!r} is not known here")
    return Ticket(request_id, attempt, signature, kind)
