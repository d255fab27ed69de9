"""A host's sign of life, on a Redis that holds something else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import redis
import redis.asyncio

from shared import wire
from shared.errors import ConfigError
from shared.registry import HostRecord
from shared.seal import Purpose
from tests.support.names import NAMES
from tests.support.sealed import KEYRING
from worker.host.sign import SignOfLife, is_earlier

NOBODY = 2**22 + 1  # beyond the ids that systems give to processes
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


def _instance(name: str, since_s: float, *, pid: int = 1, machine: str = "this") -> HostRecord:
    return replace(RECORD, instance=name, since_s=since_s, pid=pid, machine=machine)


def test_a_name_is_free_once_its_host_is_gone(redis_url: str) -> None:
    async def scenario(sign: SignOfLife) -> None:
        mine = _instance("mine", 2.0)
        await sign.check_free(mine)
        await sign.renew(_instance("old", 1.0, pid=NOBODY))
        await sign.check_free(mine)  # its process is gone, its record is not
        await sign.withdraw()
        await sign.renew(_instance("far", 3.0, machine="that"))
        await sign.check_free(mine)  # nobody renews it
        await sign.renew(mine)
        await sign.check_free(mine)

    play(redis_url, scenario)


def test_a_second_host_of_a_name_on_this_machine_is_refused_at_once(redis_url: str) -> None:
    async def scenario(sign: SignOfLife) -> None:
        await sign.renew(_instance("first", 1.0, pid=os.getpid()))
        with pytest.raises(
            ConfigError, match=r"'mac' \(pid \d+\) serves on this Redis already: give this one a --name"
        ):
            await sign.check_free(_instance("second", 2.0))

    play(redis_url, scenario)


def test_a_second_host_of_a_name_on_another_machine_is_refused(redis_url: str) -> None:
    async def scenario(sign: SignOfLife) -> None:
        first = _instance("first", 1.0, machine="that")

        async def live() -> None:
            while True:
                await sign.renew(first)
                await asyncio.sleep(0.2)

        await sign.renew(first)
        other = asyncio.create_task(live())
        with pytest.raises(ConfigError, match="on another machine"):
            await sign.check_free(_instance("second", 2.0))
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)

    play(redis_url, scenario)


def test_of_two_that_began_at_once_the_later_one_ends(redis_url: str) -> None:
    async def scenario(sign: SignOfLife) -> None:
        first, second = _instance("first", 1.0), _instance("second", 2.0)
        for _ in range(2):
            await sign.renew(second)
        await sign.renew(first)
        with pytest.raises(ConfigError, match="serves on this Redis already"):
            await sign.renew(second)

    play(redis_url, scenario)


def test_a_record_of_an_earlier_release_outranks_nobody() -> None:
    assert not is_earlier(RECORD, _instance("mine", 1.0))
    assert not is_earlier(_instance("mine", 1.0), _instance("mine", 1.0))


def test_a_record_that_says_the_same_is_not_read_again_while_no_other_host_writes(
    redis_url: str, redis_client: redis.Redis
) -> None:
    other = replace(RECORD, instance="other", since_s=1.0, machine="elsewhere")

    async def scenario(sign: SignOfLife) -> None:
        for record in (RECORD, RECORD, replace(RECORD, pid=2)):
            await sign.renew(record)
            assert await sign.read() == record
        redis_client.set(NAMES.host("mac"), SEAL.close(wire.encode(other)))
        with pytest.raises(ConfigError, match="serves on this Redis already"):
            await sign.renew(replace(RECORD, instance="mine", since_s=2.0))

    play(redis_url, scenario)
