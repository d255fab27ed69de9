"""What a client hears when Redis does not do what it was asked."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from gateway.dispatch.asking import asking_redis
from shared.errors import BrokerUnavailableError, OverloadedError

IN_A_SCRIPT = (
    "Error running script (call to f_ab2a): @user_script:28: @user_script: 28: "
    "-OOM command not allowed when used memory > 'maxmemory'."
)


async def ask(error: Exception) -> None:
    async with asking_redis("the request could not be queued"):
        raise error


@pytest.mark.parametrize("error", [OutOfMemoryError("command not allowed"), ResponseError(IN_A_SCRIPT)])
def test_a_full_redis_is_called_full_by_whatever_version(error: Exception) -> None:
    with pytest.raises(OverloadedError, match="the request could not be queued: Redis is full"):
        asyncio.run(ask(error))


@pytest.mark.parametrize("error", [ResponseError("OOM of something else"), OSError("gone"), TimeoutError()])
def test_any_other_failure_is_an_outage(error: Exception) -> None:
    with pytest.raises(BrokerUnavailableError):
        asyncio.run(ask(error))
