"""Answers that are kept: sealed, bounded, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio

from gateway.kept.store import MAX_BYTES, MAX_KEPT, AnswerStore, Kept
from shared.errors import AnswerNotFoundError, BrokerUnavailableError
from shared.keys import Names
from shared.seal import Keyring

NAMES = Names("kepttest")
KEPT = Kept(answer={"id": "resp_1", "output": []}, items=[{"role": "user", "content": "hi"}])


def with_store(url: str, work: Callable[[AnswerStore, redis.asyncio.Redis], Awaitable[None]]) -> None:
    async def run() -> None:
        async with redis.asyncio.Redis.from_url(url) as broker:
            await work(AnswerStore(broker, NAMES, Keyring(b"s" * 32)), broker)

    asyncio.run(run())


def test_an_answer_is_had_again_until_it_is_deleted_and_only_by_its_tenant(redis_url: str) -> None:
    async def work(store: AnswerStore, broker: redis.asyncio.Redis) -> None:
        assert await store.put("a", KEPT)
        assert await store.get("a", "resp_1") == KEPT
        assert 0 < await broker.ttl(NAMES.kept("a", "resp_1")) <= 24 * 3600
        for tenant, answer_id in (("b", "resp_1"), ("a", "resp_2"), ("a", "*"), ("a", ""), ("a", "x" * 500)):
            with pytest.raises(AnswerNotFoundError):
                await store.get(tenant, answer_id)
        await store.delete("a", "resp_1")
        for again in (store.get, store.delete):
            with pytest.raises(AnswerNotFoundError):
                await again("a", "resp_1")

    with_store(redis_url, work)


def test_what_was_put_there_by_somebody_else_or_moved_is_not_an_answer(redis_url: str) -> None:
    async def work(store: AnswerStore, broker: redis.asyncio.Redis) -> None:
        await store.put("a", KEPT)
        sealed = await broker.get(NAMES.kept("a", "resp_1"))
        assert isinstance(sealed, bytes)
        for key, value in (("resp_1", sealed[:-1] + b"x"), ("resp_1", b"{}"), ("resp_2", sealed)):
            await broker.set(NAMES.kept("a", key), value)
            with pytest.raises(AnswerNotFoundError):
                await store.get("a", key)

    with_store(redis_url, work)


def test_no_more_is_kept_than_has_room_and_the_oldest_goes_first(redis_url: str) -> None:
    async def work(store: AnswerStore, broker: redis.asyncio.Redis) -> None:
        assert not await store.put("a", Kept(answer={"id": "large"}, items=["x" * MAX_BYTES]))
        for number in range(MAX_KEPT + 3):
            await store.put("a", Kept(answer={"id": f"r{number}"}, items=[]))
        assert len(await broker.keys(NAMES.kept("a", "*"))) == MAX_KEPT
        with pytest.raises(AnswerNotFoundError):
            await store.get("a", "r2")
        await store.get("a", "r3")

    with_store(redis_url, work)


def test_without_redis_that_is_what_is_said() -> None:
    async def work(store: AnswerStore, _: redis.asyncio.Redis) -> None:
        for asked in (store.put("a", KEPT), store.get("a", "resp_1"), store.delete("a", "resp_1")):
            with pytest.raises(BrokerUnavailableError):
                await asked

    with_store("redis://127.0.0.1:1", work)


def test_the_latest_come_first_and_a_change_stays_in_its_place(redis_url: str) -> None:
    async def work(store: AnswerStore, broker: redis.asyncio.Redis) -> None:
        assert await store.latest("a") == []
        for number in range(3):
            await store.put("a", Kept(answer={"id": f"r{number}"}, items=[number]))
        await store.change("a", Kept(answer={"id": "r1", "metadata": {"x": "y"}}, items=[1]))
        await broker.set(NAMES.kept("a", "r0"), b"what somebody else put there")
        assert [kept.answer for kept in await store.latest("a")] == [{"id": "r2"}, {"id": "r1", "metadata": {"x": "y"}}]
        assert 0 < await broker.ttl(NAMES.kept("a", "r1")) <= 24 * 3600, "a change keeps nothing longer"
        with pytest.raises(AnswerNotFoundError):
            await store.change("a", Kept(answer={"id": "nobody"}, items=[]))

    with_store(redis_url, work)
