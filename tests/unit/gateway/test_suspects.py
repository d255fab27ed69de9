"""Which requests are known to kill workers: shared by all gateways, without a word of what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import redis.asyncio

from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.suspects import Death, Suspects, digest_of, shape_of
from shared.errors import QuarantinedError, WorkerLostError
from shared.messages import Message, TextPart
from shared.request import GenerateRequest, SamplingParams
from tests.support.names import NAMES
from tests.support.sealed import KEYRING

REQUEST = GenerateRequest(id="r1", model="m", messages=(Message(role="user", parts=(TextPart(text="secret words"),)),))


@pytest.mark.parametrize(
    ("requests", "suspects", "was_suspect", "expected"),
    [(1, 0, False, True), (8, 0, False, False), (8, 1, True, True), (8, 2, True, False), (1, 1, True, True)],
)
def test_a_death_names_a_request_only_when_no_other_can_be_meant(
    requests: int, suspects: int, was_suspect: bool, expected: bool
) -> None:
    assert Death(requests, suspects).is_of(was_suspect=was_suspect) == expected


def test_what_is_no_death_makes_no_suspect() -> None:
    assert Death.of(WorkerLostError("silent", worker="a")) is None
    assert Death.of(WorkerLostError("nobody counted", died_with=0, died_suspects=0)) is None
    assert Death.of(WorkerLostError("dead", died_with=2, died_suspects=1)) == Death(2, 1)


def test_the_same_request_has_the_same_digest_whatever_its_id() -> None:
    again = replace(REQUEST, id="r2", trail=b"other")
    assert digest_of(again) == digest_of(REQUEST)
    assert digest_of(replace(REQUEST, sampling=SamplingParams(max_tokens=5))) != digest_of(REQUEST)
    assert digest_of(replace(REQUEST, tenant="other")) != digest_of(REQUEST)


def test_its_shape_holds_no_text() -> None:
    assert "secret" not in str(shape_of(REQUEST, 1.0))
    assert shape_of(REQUEST, 1.0)["messages"] == 1


def played(url: str, scenario: Callable[[Suspects, Suspects, redis.asyncio.Redis], Awaitable[None]]) -> None:
    async def main() -> None:
        async with redis.asyncio.Redis.from_url(url) as broker:
            await scenario(Suspects(broker, NAMES), Suspects(broker, NAMES), broker)

    asyncio.run(main())


def test_after_two_deaths_every_gateway_refuses_it(redis_url: str) -> None:
    async def scenario(one: Suspects, other: Suspects, broker: redis.asyncio.Redis) -> None:
        await one._note(REQUEST)
        await other.look()
        assert other.check(REQUEST) == 1
        assert other.check(replace(REQUEST, model="another")) == 0
        await other._note(replace(REQUEST, id="r2"))
        await one.look()
        with pytest.raises(QuarantinedError):
            one.check(replace(REQUEST, id="r3"))
        [shape] = one.quarantined.values()
        assert shape["model"] == "m"
        assert await broker.ttl(NAMES.suspects) > 0

    played(redis_url, scenario)


def test_every_look_at_the_fleet_tells_of_suspects_whatever_lies_there(redis_url: str) -> None:
    async def scenario(one: Suspects, other: Suspects, broker: redis.asyncio.Redis) -> None:
        fleet = FleetWatcher(broker, NAMES, KEYRING)
        fleet.beside = (one, other)
        await one._note(REQUEST)
        await fleet.refresh()
        assert one.check(REQUEST) == other.check(REQUEST) == 1
        await broker.delete(NAMES.suspects)
        await broker.set(NAMES.suspects, "x")
        await fleet.refresh()
        assert one.check(REQUEST) == 1, "what cannot be read changes nothing"
        await broker.delete(NAMES.suspects)
        await fleet.refresh()
        assert one.check(REQUEST) == other.check(REQUEST) == 0
        assert fleet.is_connected

    played(redis_url, scenario)


def test_what_is_none_of_ours_in_the_hash_is_passed_over(redis_url: str) -> None:
    async def scenario(one: Suspects, _: Suspects, broker: redis.asyncio.Redis) -> None:
        await broker.hset(NAMES.suspects, mapping={b"\xff:lone": b"x", b"a": b"1", b"b:lone": b"9", b"b:shape": b"[}"})
        await one.look()
        assert list(one.quarantined) == ["b"]

    played(redis_url, scenario)
