"""Two gateways decide on what is true: what either has placed, what workers know, where conversations were."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
import redis.asyncio

from gateway.app import create_app
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.facts import Known
from gateway.dispatch.jobs import ChangedError, queue_key
from gateway.dispatch.lookups import conversation_of, lookups_of
from gateway.intake.chain import build_chain
from gateway.parts import Parts
from shared import wire
from shared.config import Settings
from shared.messages import Message, TextPart
from shared.notes import read_note
from shared.registry import WorkerLease
from shared.request import GenerateRequest
from tests.support.fleet import lease
from tests.support.gateway import until_true
from tests.support.names import NAMES
from tests.support.sealed import SECRET, sealed_lease

A, B = "a.m.e1", "b.m.e1"
Play = Callable[[Callable[[Parts, Parts], Awaitable[None]]], None]


def mac(name: str, **fields: Any) -> WorkerLease:
    known = {"service_s": 1.0, "prefill_token_s": 0.001, "tokens_per_byte": 0.25, "capacity": 1}
    return lease("m", worker=name, **known | fields)


@pytest.fixture
def play(redis_url: str, redis_client: redis.Redis, tmp_path: Path) -> Play:
    """Runs one coroutine with the parts of two gateways that see two idle Macs."""

    @contextlib.asynccontextmanager
    async def gateway() -> AsyncIterator[Parts]:
        app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path, secret=SECRET))
        async with app.router.lifespan_context(app):
            yield app.parts

    def run(scenario: Callable[[Parts, Parts], Awaitable[None]]) -> None:
        async def main() -> None:
            for name in (A, B):
                renew(redis_client, mac(name))
            async with gateway() as one, gateway() as other:
                await scenario(one, other)

        asyncio.run(main())

    return run


def renew(client: redis.Redis, worker: WorkerLease) -> None:
    client.set(NAMES.lease(worker.worker), sealed_lease(worker))
    client.sadd(NAMES.workers, worker.worker)


def request(number: int = 1, words: int = 4000, *, session: str = "", said: str = "") -> GenerateRequest:
    texts = [said or "word " * words, *([] if not said else ["answer", "more"])]
    roles: Any = ("user", "assistant", "user")
    messages = tuple(Message(role=role, parts=(TextPart(text=text),)) for role, text in zip(roles, texts, strict=False))
    asked = GenerateRequest(id=f"r{number}", model="m", messages=messages, session=session)
    packed = wire.pack(asked)
    return replace(packed, packed=replace(packed.packed, chain=build_chain(asked, packed.packed)))


async def begun(parts: Parts, leaving: contextlib.AsyncExitStack, asked: GenerateRequest) -> Dispatch:
    dispatch = await parts.dispatcher.admit(parts.intake._tagger.tagged(asked), is_repeated=False)
    await leaving.enter_async_context(parts.dispatcher.joined(dispatch))
    return dispatch


def test_what_one_gateway_placed_the_other_sees_before_any_lease_does(play: Play) -> None:
    async def scenario(one: Parts, other: Parts) -> None:
        async with contextlib.AsyncExitStack() as leaving:
            first = await begun(one, leaving, request(1, said="one"))
            second = await begun(other, leaving, request(2, said="another"))
            assert {first.attempt.place.worker, second.attempt.place.worker} == {A, B}

    play(scenario)


def test_a_place_is_decided_anew_when_something_was_put_there_since_it_was_looked_at(play: Play) -> None:
    async def scenario(one: Parts, other: Parts) -> None:
        async with contextlib.AsyncExitStack() as leaving:
            late = await one.dispatcher.admit(one.intake._tagger.tagged(request(1, said="one")), is_repeated=False)
            seen = late.attempt.place
            for number in range(2, 5):
                await begun(other, leaving, request(number, said=f"{number}"))
            with pytest.raises(ChangedError):
                await one.jobs.submit(one.dispatcher._envelope(late, seen), seen)
            await leaving.enter_async_context(one.dispatcher.joined(late))
            assert late.attempt.place.seen != seen.seen

    play(scenario)


def test_a_burst_through_two_gateways_is_spread(play: Play) -> None:
    """Nearly evenly: what is decided for the third time is put where it was decided, whatever came meanwhile."""

    async def scenario(one: Parts, other: Parts) -> None:
        async with contextlib.AsyncExitStack() as leaving:
            asked = [begun((one, other)[n % 2], leaving, request(n, said=f"question {n}")) for n in range(12)]
            found = [dispatch.attempt.place.worker for dispatch in await asyncio.gather(*asked)]
        assert min(map(found.count, (A, B))) >= 4

    play(scenario)


def test_what_workers_have_in_memory_and_hosts_on_disk_is_found_by_tags(play: Play, redis_client: redis.Redis) -> None:
    async def scenario(one: Parts, other: Parts) -> None:
        asked = one.intake._tagger.tagged(request(1, said="word " * 4000))
        links = lookups_of(asked)
        redis_client.zadd(NAMES.resident(B), {links[0].digest: 4_002, links[-1].digest: 4_000})
        redis_client.zadd(NAMES.disk("a", "m"), {links[-1].digest: 3_999})
        look = await other.dispatcher._outlook.look(asked)
        assert look.sights[B].memory == Known(4_002, links[0].text_bytes), "the deepest"
        assert look.sights[A].disk == Known(3_999, links[-1].text_bytes)
        assert (look.sights[A].memory, look.sights[B].soon) == (Known(), Known())
        assert (await other.dispatcher.admit(asked, is_repeated=False)).attempt.place.worker == B

    play(scenario)


def test_what_has_another_type_than_it_should_says_nothing(play: Play, redis_client: redis.Redis) -> None:
    async def scenario(one: Parts, _other: Parts) -> None:
        for key in (NAMES.resident(A), NAMES.soon(A), NAMES.placed(A), NAMES.disk("a", "m")):
            redis_client.lpush(key, "nonsense")
        redis_client.set(NAMES.placed(B), "nonsense")
        look = await one.dispatcher._outlook.look(one.intake._tagger.tagged(request(said="x")))
        assert look.sights[A] == look.sights[B]

    play(scenario)


def test_who_comes_with_the_same_beginning_finds_what_was_placed_and_is_not_computed_yet(
    play: Play, redis_client: redis.Redis
) -> None:
    async def scenario(one: Parts, other: Parts) -> None:
        async with contextlib.AsyncExitStack() as leaving:
            asked = request(1, said="word " * 9000)
            first = await begun(one, leaving, asked)
            look = await other.dispatcher._outlook.look(other.intake._tagger.tagged(request(2, said="word " * 9000)))
            where = first.attempt.place.worker
            assert look.sights[where].soon.text_bytes > 40_000
            assert redis_client.ttl(NAMES.soon(where)) > 5, "as long as its prefill takes"

    play(scenario)


def test_a_conversation_has_a_home_that_all_gateways_know_and_that_counts_its_turns(
    play: Play, redis_client: redis.Redis
) -> None:
    async def scenario(one: Parts, other: Parts) -> None:
        async with contextlib.AsyncExitStack() as leaving:
            first = await begun(one, leaving, request(1, said="one", session="s"))
            home = first.attempt.place.worker
            second = await begun(other, leaving, request(2, said="two", session="s"))
            assert (second.attempt.place.worker, second.attempt.place.reason) == (home, "home")
            key = NAMES.home(conversation_of(first.request).key)
            assert redis_client.get(key) == f"{home} 2 0".encode()
            elsewhere = B if home == A else A
            there = replace(first.attempt.place, worker=elsewhere, seen=-1)
            envelope = one.dispatcher._envelope(first, there)
            await one.jobs.submit(replace(envelope, attempt=2), there)
            assert redis_client.get(key) == f"{elsewhere} 3 3".encode()

    play(scenario)


def test_a_side_request_of_a_session_does_not_move_its_home(play: Play, redis_client: redis.Redis) -> None:
    async def scenario(one: Parts, _other: Parts) -> None:
        async with contextlib.AsyncExitStack() as leaving:
            title = replace(request(1, said="title", session="s"), priority="side")
            dispatch = await begun(one, leaving, title)
            assert not redis_client.exists(NAMES.home(conversation_of(dispatch.request).key))

    play(scenario)


def test_a_lower_score_stands_before_a_higher_one(play: Play, redis_client: redis.Redis) -> None:
    async def scenario(one: Parts, other: Parts) -> None:
        redis_client.delete(NAMES.lease(B))
        await one.fleet.refresh()
        async with contextlib.AsyncExitStack() as leaving:
            for number, words in enumerate((40_000, 400, 20_000, 4_000)):
                await begun((one, other)[number % 2], leaving, request(number, said=f"{number} " * words))
            jobs = redis_client.lrange(queue_key(NAMES.worker_queue("m", A, "interactive")), 0, -1)
            notes = [read_note(redis_client.hget(NAMES.placed(A), job).decode()) for job in jobs]  # type: ignore[union-attr]
        assert [job.decode() for job in jobs] == ["r1-1", "r3-1", "r2-1", "r0-1"], "short before long"
        assert [note.score for note in notes] == sorted(note.score for note in notes)

        async def are_gone() -> bool:
            return set(redis_client.hkeys(NAMES.placed(A))) <= {b"v", b"cold"}

        await until_true(are_gone, "what was cancelled is noted no longer")

    play(scenario)


def test_why_it_was_placed_there_is_kept_for_a_while(play: Play, redis_client: redis.Redis) -> None:
    async def scenario(one: Parts, _other: Parts) -> None:
        async with contextlib.AsyncExitStack() as leaving:
            dispatch = await begun(one, leaving, request(1, said="one"))
        told = orjson.loads(redis_client.hget(NAMES.why("r1"), "r1-1") or b"{}")
        assert told["worker"] == dispatch.attempt.place.worker
        assert {each["worker"] for each in told["candidates"]} == {A, B}
        assert 0 < redis_client.ttl(NAMES.why("r1")) <= 900

    play(scenario)


def test_what_was_claimed_and_is_in_no_lease_yet_holds_its_place(play: Play, redis_client: redis.Redis) -> None:
    async def scenario(one: Parts, _other: Parts) -> None:
        redis_client.hset(NAMES.placed(A), "x-1", "!interactive 7.5 1000.0 f")
        look = await one.dispatcher._outlook.look(one.intake._tagger.tagged(request(said="x")))
        found = next(worker for worker in look.fleet.workers if worker.worker == A)
        assert (found.held, found.waiting_s) == ((1, 0, 0, 0), (7.5, 0, 0, 0))

    play(scenario)
