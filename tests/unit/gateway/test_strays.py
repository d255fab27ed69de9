"""What waits for a gateway that is gone, where nobody takes it, is ended by another: real scripts, a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis

from gateway.dispatch.facts import Placed
from gateway.dispatch.jobs import JobQueue, queue_key
from gateway.dispatch.strays import GONE_S, Strays
from gateway.parts import connect_broker
from shared.config import Settings
from shared.messages import Message, TextPart
from shared.request import GenerateRequest
from shared.work import Envelope, Generate
from tests.support.names import NAMES
from tests.support.sealed import KEYRING

WORKER = "mac.m.e1"
AT_WORKER, NOWHERE = Placed(lane="interactive", worker=WORKER), Placed(lane="interactive")
Scenario = Callable[[JobQueue, Strays], Coroutine[Any, Any, None]]


def envelope(request_id: str, gateway: str) -> Envelope:
    request = GenerateRequest(id=request_id, model="m", messages=(Message(role="user", parts=(TextPart(text="hi"),)),))
    return Envelope(work=Generate(request=request), gateway=gateway, attempt=1, deadline_s=time.time() + 60)


@pytest.fixture
def play(redis_url: str, redis_client: redis.Redis) -> Callable[[Scenario], None]:
    redis_client.set(NAMES.lease(WORKER), "alive")
    redis_client.set(NAMES.gateway("here"), "alive")

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            client, subscriber = connect_broker(Settings(redis_url=redis_url))
            jobs = JobQueue(client, NAMES, KEYRING)
            try:
                await scenario(jobs, Strays(client, NAMES, jobs))
            finally:
                await client.aclose()
                await subscriber.aclose()

        asyncio.run(main())

    return run


def bodies(client: redis.Redis) -> set[str]:
    return {key.decode().rpartition(":")[2] for key in client.scan_iter(f"{NAMES.bodies}*")}


@pytest.mark.parametrize("place", [AT_WORKER, NOWHERE])
def test_what_a_gone_gateway_left_where_nobody_takes_it_is_ended_with_its_body(
    play: Callable[[Scenario], None], redis_client: redis.Redis, place: Placed
) -> None:
    async def scenario(jobs: JobQueue, strays: Strays) -> None:
        await jobs.submit(envelope("gone", "there"), place)
        await jobs.submit(envelope("kept", "here"), place)
        redis_client.delete(NAMES.lease(WORKER))
        assert [await strays.look(now_s) for now_s in (0, GONE_S - 0.1, GONE_S)] == [0, 0, 1]

    play(scenario)
    assert bodies(redis_client) == {"kept-1"}
    queue = NAMES.worker_queue("m", WORKER, "interactive") if place.worker else NAMES.queue("m", "interactive")
    assert redis_client.lrange(queue_key(queue), 0, -1) == [b"kept-1"]
    assert redis_client.hget("rq:job:gone-1", "status") == b"canceled"
    assert redis_client.zscore(f"rq:canceled:{NAMES.queue('m', 'interactive')}", "gone-1")


def test_what_a_worker_will_take_is_left_to_it(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    async def scenario(jobs: JobQueue, strays: Strays) -> None:
        await jobs.submit(envelope("gone", "there"), AT_WORKER)
        assert [await strays.look(now_s) for now_s in (0, 2 * GONE_S)] == [0, 0]

    play(scenario)
    assert bodies(redis_client) == {"gone-1"}


def test_a_gateway_that_was_only_missed_for_a_moment_keeps_its_work(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, strays: Strays) -> None:
        await jobs.submit(envelope("slow", "there"), NOWHERE)
        assert await strays.look(0) == 0
        redis_client.set(NAMES.gateway("there"), "alive")
        assert await strays.look(GONE_S) == 0
        redis_client.delete(NAMES.gateway("there"))
        assert [await strays.look(now_s) for now_s in (GONE_S + 1, 2 * GONE_S)] == [0, 0]

    play(scenario)
    assert bodies(redis_client) == {"slow-1"}


def test_what_nobody_of_ours_wrote_stops_no_look(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    async def scenario(jobs: JobQueue, strays: Strays) -> None:
        await jobs.submit(envelope("gone", "there"), NOWHERE)
        odd = queue_key(NAMES.queue("odd"))
        redis_client.sadd("rq:queues", odd, b"\xff", "rq:queue:another", queue_key(NAMES.queue("a@b@c!d!e")))
        redis_client.set(odd, "no list")
        redis_client.rpush(queue_key(NAMES.queue("m", "interactive")), b"\xff", "no-number", "")
        redis_client.hset("rq:job:no-number", "asked_at", "there")
        redis_client.set("rq:job:", "no hash")
        assert [await strays.look(now_s) for now_s in (0, GONE_S)] == [0, 1]

    play(scenario)
    assert bodies(redis_client) == set()
