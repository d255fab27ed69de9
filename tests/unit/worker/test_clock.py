"""How far a host's clock is from that of Redis, from a real one."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.asyncio

from shared.redis_server import RedisServer
from worker.host import clock
from worker.host.clock import ClockOffset, offset_s


def test_the_other_clock_is_taken_to_be_read_in_the_middle() -> None:
    assert offset_s(100.0, 100.2, 98.1) == pytest.approx(2.0)
    assert offset_s(100.0, 100.2, 103.1) == pytest.approx(-3.0)


def test_a_clock_that_runs_ahead_is_told_from_a_real_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    real_time = time.time

    class Ahead:
        monotonic = staticmethod(time.monotonic)
        shift_s = 0.0

        @classmethod
        def time(cls) -> float:
            return real_time() + cls.shift_s

    monkeypatch.setattr(clock, "time", Ahead)

    async def read(shift_s: float) -> dict[str, float]:
        Ahead.shift_s = shift_s
        async with redis.asyncio.Redis.from_url(server.url) as client:
            return await ClockOffset(client).read()

    with RedisServer() as server:
        assert asyncio.run(read(0.0))["clock_offset_seconds"] == pytest.approx(0.0, abs=1.0)
        assert asyncio.run(read(60.0))["clock_offset_seconds"] == pytest.approx(60.0, abs=1.0)


def test_while_redis_is_away_nothing_is_said() -> None:
    async def read() -> dict[str, float]:
        async with redis.asyncio.Redis.from_url("redis://127.0.0.1:1") as client:
            return await ClockOffset(client).read()

    assert asyncio.run(read()) == {}
