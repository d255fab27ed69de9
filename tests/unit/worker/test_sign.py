"""A host's sign of life, on a Redis that holds something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis
import redis.asyncio

from shared import wire
from shared.registry import HostRecord
from shared.seal import Purpose
from tests.support.names import NAMES
from tests.support.sealed import KEYRING
from worker.host.sign import SignOfLife

RECORD = HostRecord(host="mac", pid=1, models=(), reader=wire.READER)
SEAL = KEYRING.of("mac").seal(Purpose.HOST, "mac")


def play(url: str, scenario: Callable[[SignOfLife], Awaitable[None]]) -> None:
    async def main() -> None:
        async with redis.asyncio.Redis.from_url(url) as client:
            await scenario(SignOfLife(client, NAMES, "mac", SEAL))

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["string", "list", "hash", "zset", "stream"])
def test_keys_that_hold_something_else_are_named_and_made_anew(
    redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    write: dict[str, Callable[[str], object]] = {
        "string": lambda key: redis_client.set(key, "x"),
        "list": lambda key: redis_client.rpush(key, "x"),
        "hash": lambda key: redis_client.hset(key, "a", "x"),
        "zset": lambda key: redis_client.zadd(key, {"x": 1}),
        "stream": lambda key: redis_client.xadd(key, {"a": "x"}),
    }
    for key in (NAMES.hosts, NAMES.host("mac")):
        write[kind](key)

    async def scenario(sign: SignOfLife) -> None:
        assert await sign.read() is None
        await sign.renew(RECORD)
        assert await sign.read() == RECORD

    play(redis_url, scenario)
    assert redis_client.smembers(NAMES.hosts) == {b"mac"}
    assert f"{NAMES.hosts} held a {kind} instead of a set" in caplog.text
    assert "cannot be reached" not in caplog.text


def test_a_redis_that_came_back_empty_hears_of_the_host_with_the_next_record(
    redis_url: str, redis_client: redis.Redis
) -> None:
    async def scenario(sign: SignOfLife) -> None:
        for _ in range(7):  # whichever of the records it was that was lost
            await sign.renew(RECORD)
            redis_client.flushall()
            await sign.renew(RECORD)
            assert redis_client.smembers(NAMES.hosts) == {b"mac"}

    play(redis_url, scenario)


def test_that_redis_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sign: SignOfLife) -> None:
        for _ in range(3):
            await sign.renew(RECORD)

    play("unix:///nowhere/redis.sock", scenario)
    assert caplog.text.count("Redis cannot be reached") == 1
