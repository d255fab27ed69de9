"""Requests as they come out of Redis: found, decoded, and checked before anything is spent on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis

from shared.errors import DeadlineExceededError, WireError
from shared.keys import Names, job_id
from shared.seal import HostKey
from shared.wire import decode_envelope
from shared.work import Envelope, job_subject
from worker.serving.ticket import Ticket

_TOLD_BYTES = 64 * 1024
_NOT_SIGNED = "the request's signature is wrong: gateway and worker need the same MLX_GATEWAY_SECRET"
_MOST_DIGITS = 15  # of a number that we have written


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What Redis holds of an attempt. `data` is None when there is no body (any more); `is_ended` when the attempt must
    not run."""

    data: bytes | None
    is_ended: bool = False


class Bodies:
    """Reads bodies, and takes them out of Redis once they are here. One round trip each; raises `redis.RedisError`."""

    def __init__(self, client: redis.Redis, names: Names, *, host: str) -> None:
        """`host` is the word under which this host's bodies lie."""
        self._client = client
        self._names = names
        self._host = host

    def fetch(self, ticket: Ticket) -> Body:
        names = (self._body(ticket), self._names.ended(ticket.request_id))
        data, ended = cast(list[bytes | None], self._client.mget(*names))
        return Body(data=data, is_ended=ended is not None and is_ended(ended, ticket.attempt))

    def drop(self, ticket: Ticket) -> None:
        """A job starts once; whoever dispatches the request again brings a body of its own along."""
        self._client.unlink(self._body(ticket))

    def _body(self, ticket: Ticket) -> str:
        return self._names.body(self._host, ticket.request_id, ticket.attempt)


def is_ended(mark: bytes, attempt: int) -> bool:
    """Whether the mark, the highest attempt that must not run, means this attempt; what is no number means all."""
    return not mark.isdigit() or len(mark) > _MOST_DIGITS or int(mark) >= attempt


def read_envelope(ticket: Ticket, data: bytes, key: HostKey) -> tuple[Envelope, bool]:
    """(the envelope, whether it is what was signed). What was not is decoded only where that costs nothing, to know who
    is to be told. Raises `WireError`."""
    subject = job_subject(ticket.kind, job_id(ticket.request_id, ticket.attempt))
    is_signed = key.is_signed(subject, data, ticket.signature)
    if not is_signed and len(data) > _TOLD_BYTES:
        raise WireError(_NOT_SIGNED)
    return decode_envelope(data), is_signed


def check_envelope(envelope: Envelope, ticket: Ticket, now_s: float, *, is_signed: bool) -> None:
    """Raise when this work must not be done: `WireError` for a body that is not what was signed,
    `DeadlineExceededError` when nobody waits any more."""
    if envelope.request.id != ticket.request_id:
        raise WireError("the body belongs to another request")
    if envelope.attempt != ticket.attempt:
        raise WireError("the body belongs to another attempt")
    if envelope.kind.name != ticket.kind:
        raise WireError(f"the body is work of another kind: {envelope.kind.name}")
    if not is_signed:
        raise WireError(_NOT_SIGNED)
    if 0 < envelope.deadline_s <= now_s:
        raise DeadlineExceededError("the request ran out of time before a worker could begin it")
