"""Asking Redis for something, with one time-out for all of it and errors that a client may hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from gateway.dispatch.presence import away_error
from shared.errors import OverloadedError

_PATIENCE_S = 5.0
_FULL_S = 5  # after which a Redis that is full may have room


@asynccontextmanager
async def asking_redis(purpose: str) -> AsyncIterator[None]:
    """Raises `BrokerUnavailableError` when the block does not get through to Redis, or not in time, and
    `OverloadedError` when Redis has no memory for it."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        if _is_full(error):
            raise OverloadedError(f"{purpose}: Redis is full", retry_after_s=_FULL_S, reason="redis_full") from error
        raise away_error(purpose, error) from error


def _is_full(error: BaseException) -> bool:
    """Before 7.0 Redis says of a script only that it failed, with the command's error somewhere in the text."""
    in_script = isinstance(error, ResponseError) and "-OOM command not allowed" in str(error)
    return in_script or isinstance(error, OutOfMemoryError)
