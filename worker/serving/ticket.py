"""The one function an RQ job may name, and what it makes of the job's arguments.

A gateway enqueues the dotted name `shared.keys.JOB_FUNCTION` with `[request id, attempt, signature]` and keeps the
body in `req:{id}`. The name is looked up in an allow-list (`worker.safe_job`); it is never imported from data.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import WireError


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a job says of its request: enough to find the body and to check who wrote it."""

    request_id: str
    attempt: int
    signature: str


def run(request_id: str, attempt: int, signature: str) -> Ticket:
    """The job as a ticket for the runner. Raises `WireError` for arguments of the wrong types."""
    if not (isinstance(request_id, str) and isinstance(attempt, int) and isinstance(signature, str)):
        raise WireError("job arguments: expected request id, attempt and signature")
    return Ticket(request_id, attempt, signature)
