"""Requests as they come out of Redis: found, decoded, and checked before anything is spent on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis

from shared import keys
from shared.errors import DeadlineExceededError, RequestCancelledError, WireError
from shared.request import Envelope
from shared.wire import is_signed
from worker.serving.ticket import Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What Redis holds under a request's id. `data` is None when there is no body (any more)."""

    data: bytes | None
    cancelled: str | None

    @classmethod
    def of(cls, data: bytes | None, cancelled: bytes | None) -> Body:
        return cls(data=data, cancelled=None if cancelled is None else cancelled.decode(errors="replace"))


class Bodies:
    """Reads bodies, and takes them out of Redis once they are here. One round trip each; raises `redis.RedisError`."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def fetch(self, request_id: str) -> Body:
        data, cancelled = cast(list[bytes | None], self._client.mget(keys.body(request_id), keys.cancelled(request_id)))
        return Body.of(data, cancelled)

    def drop(self, request_id: str) -> None:
        """A job starts once; whoever dispatches the request again brings the body along again."""
        self._client.unlink(keys.body(request_id))


def check_envelope(envelope: Envelope, ticket: Ticket, data: bytes, secret: bytes, now_s: float) -> None:
    """Raise when this work must not be done: `WireError` for a body that is not what was signed,
    `RequestCancelledError` when a later attempt has replaced it, `DeadlineExceededError` when nobody waits any more.
    """
    if envelope.request.id != ticket.request_id:
        raise WireError("the body belongs to another request")
    if envelope.attempt > ticket.attempt:
        raise RequestCancelledError(f"attempt {envelope.attempt} has replaced attempt {ticket.attempt}")
    if not is_signed(secret, ticket.request_id, ticket.attempt, data, ticket.signature):
        raise WireError("the request's signature is wrong: gateway and worker need the same MLX_GATEWAY_SECRET")
    if 0 < envelope.deadline_s <= now_s:
        raise DeadlineExceededError("the request ran out of time before a worker could begin it")
