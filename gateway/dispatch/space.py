"""Bytes are admitted, too: bodies that wait leave Redis enough memory for leases, frames and everything small.

A Redis that is full refuses every write, and a fleet whose leases cannot be renewed looks dead. So a large body goes
there only while most of what Redis may use is free, and else its client hears that the fleet is full. Small bodies
are many times smaller than what is left for them, so nobody asks for those.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from shared.beats import until_beat_s
from shared.errors import OverloadedError, RequestTooLargeError

LARGE_BYTES: Final = 128 * 1024
# Of what Redis may use. The rest is for what must never be refused.
_SHARE_FOR_BODIES: Final = 0.75
_PATIENCE_S = 2.0
_RETRY_AFTER_S = 5
_TELL_EVERY_S = 10.0
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of Redis: `max_bytes` is 0 where it has no limit or none that we may know."""

    used_bytes: int = 0
    max_bytes: int = 0


def check_room(memory: Memory, *, coming_bytes: int, body_bytes: int) -> None:
    """Whether a body has room beside what is there and what is on its way (`coming_bytes`). Raises `OverloadedError`,
    and `RequestTooLargeError` for a body that would not even fit alone."""
    if not memory.max_bytes:
        return
    limit_bytes = int(_SHARE_FOR_BODIES * memory.max_bytes)
    if body_bytes > limit_bytes:
        raise RequestTooLargeError(
            f"the request has {_mb(body_bytes)} MB, more than the {_mb(limit_bytes)} MB that Redis has for all of them"
        )
    taken_bytes = memory.used_bytes + coming_bytes
    if taken_bytes + body_bytes > limit_bytes:
        raise OverloadedError(
            f"requests that wait take {_mb(taken_bytes)} of the {_mb(limit_bytes)} MB that Redis has for them; "
            f"one of {_mb(body_bytes)} MB has no room now",
            retry_after_s=_RETRY_AFTER_S,
            reason="bytes_full",
        )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / _MB:.1f}"


class Space:
    """What this gateway has on its way to Redis, and how much there is there."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._coming_bytes = 0

    @contextlib.asynccontextmanager
    async def taken(self, body_bytes: int) -> AsyncIterator[None]:
        """While a body of this size is written. Raises the errors of `check_room`, on what is true at this moment."""
        if body_bytes < LARGE_BYTES:
            yield
            return
        memory = await self.memory()
        check_room(memory, coming_bytes=self._coming_bytes, body_bytes=body_bytes)
        self._coming_bytes += body_bytes
        try:
            yield
        finally:
            self._coming_bytes -= body_bytes

    async def memory(self) -> Memory:
        """Nothing is known where Redis does not say: then it is left to Redis to refuse."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                said = await self._redis.info("memory")
        except (RedisError, OSError, TimeoutError):
            return Memory()
        return Memory(used_bytes=int(said.get("used_memory", 0)), max_bytes=int(said.get("maxmemory", 0)))


async def keep_telling(space: Space, note: Callable[[int, int], None]) -> None:
    """Tell, for ever, how many bytes Redis uses and how many it may."""
    while True:
        memory = await space.memory()
        note(memory.used_bytes, memory.max_bytes)
        await asyncio.sleep(until_beat_s(_TELL_EVERY_S))
