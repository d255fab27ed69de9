"""Requests that were on a worker when it died, and those of which it is certain that they kill workers.

A death makes suspects of all that ran there. A suspect runs beside no other, so that the next death names one: only a
request that was the only suspect at two deaths is quarantined, and refused when it comes back. What is kept of it is
its digest and its shape, no text. All gateways share the counts, in one hash in Redis.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import redis.asyncio
from redis.exceptions import RedisError

from shared import wire
from shared.errors import GatewayError, QuarantinedError
from shared.keys import SUSPECTS_TTL_S, Names
from shared.request import GenerateRequest, PackedRequest

logger = logging.getLogger(__name__)

LONE_DEATHS = 2  # after which a request is quarantined
_TIMEOUT_S = 1.0
_LONE, _SHAPE = "lone", "shape"


@dataclass(frozen=True, slots=True)
class Death:
    """What ended with a worker: how many requests, and how many of them were suspects."""

    requests: int
    suspects: int

    @classmethod
    def of(cls, fault: GatewayError) -> Death | None:
        """None for a fault with which no worker died, or of which nobody knows what else ran."""
        requests, suspects = fault.details.get("died_with"), fault.details.get("died_suspects")
        if not isinstance(requests, int) or not isinstance(suspects, int) or requests < 1:
            return None
        return cls(requests, suspects)

    def is_of(self, *, was_suspect: bool) -> bool:
        """Whether it names one request: this was the only one, or the only suspect."""
        return self.requests == 1 or (was_suspect and self.suspects <= 1)


def digest_of(request: GenerateRequest) -> str:
    """The same for the same request under another id."""
    if isinstance(request, PackedRequest):
        plain = replace(request, id="", trail=b"", packed=replace(request.packed, data=b""))
        content = request.packed.digest + wire.encode(GenerateRequest(**_fields(plain)))
    else:
        content = wire.encode(replace(request, id="", trail=b""))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _fields(request: PackedRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in GenerateRequest.__dataclass_fields__}


def shape_of(request: GenerateRequest, now_s: float) -> dict[str, Any]:
    """What may be shown of it: sizes and parameters."""
    sampling = request.sampling
    holder = request.packed if isinstance(request, PackedRequest) else request
    return {
        "model": request.model,
        "messages": len(holder.messages),
        "tools": len(holder.tools),
        "has_schema": request.response_schema is not None,
        "priority": request.priority,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "at_s": int(now_s),
    }


def lone_deaths(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    """By digest. `fields` is the hash in Redis; what is none of ours in it is passed over."""
    found: dict[str, int] = {}
    for name, value in fields.items():
        digest, _, kind = name.decode(errors="replace").partition(":")
        if kind == _LONE and value.isdigit():
            found[digest] = int(value)
    return found


def quarantined(fields: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Digest -> shape, of what is refused."""
    refused = [digest for digest, deaths in lone_deaths(fields).items() if deaths >= LONE_DEATHS]
    return {digest: _read_shape(fields.get(f"{digest}:{_SHAPE}".encode(), b"{}")) for digest in refused}


def _read_shape(data: bytes) -> dict[str, Any]:
    try:
        shape = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return shape if isinstance(shape, dict) else {}


class Suspects:
    """What all gateways know, as of the last look at the fleet."""

    def __init__(self, broker: redis.asyncio.Redis, names: Names) -> None:
        self._redis = broker
        self._key = names.suspects
        self._lone: Mapping[str, int] = {}  # digest -> deaths at which it was the only suspect
        self.quarantined: Mapping[str, Mapping[str, Any]] = {}
        self._noting: set[asyncio.Task[None]] = set()

    def ask(self, pipe: redis.asyncio.client.Pipeline) -> None:
        """One command, along with what else is read."""
        pipe.hgetall(self._key)

    def hear(self, reply: dict[bytes, bytes] | RedisError) -> None:
        """What it gave; what is known stays where that was an error."""
        if isinstance(reply, RedisError):
            logger.debug("what is quarantined is not known: %s", reply)
            return
        self._lone = lone_deaths(reply)
        self.quarantined = quarantined(reply)

    async def look(self) -> None:
        """Raises `RedisError`."""
        fields: dict[Any, Any] = await self._redis.hgetall(self._key)
        self.hear(fields)

    def check(self, request: GenerateRequest) -> int:
        """At how many deaths the request was the only suspect. Raises `QuarantinedError` for one that is refused."""
        if not self._lone:
            return 0
        digest = digest_of(request)
        if digest in self.quarantined:
            raise refusal()
        return self._lone.get(digest, 0)

    def note_soon(self, request: GenerateRequest) -> None:
        """A worker has died of it alone. Nobody waits for it to be written down."""
        task = asyncio.get_running_loop().create_task(self._note(request))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _note(self, request: GenerateRequest) -> None:
        digest = digest_of(request)
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._redis.pipeline(transaction=True) as pipe:
                pipe.hincrby(self._key, f"{digest}:{_LONE}", 1)
                pipe.hset(self._key, f"{digest}:{_SHAPE}", orjson.dumps(shape_of(request, time.time())))
                pipe.expire(self._key, SUSPECTS_TTL_S)
                await pipe.execute()
            await self.look()
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("that a worker died of request %s is not noted: %s", request.id, error)


def refusal() -> QuarantinedError:
    return QuarantinedError(
        "this request has ended two workers that ran nothing else that could have: it is not run again"
    )
