"""Who was locked out reads no more, with whatever leave it was given before, also where no door stands before the
lender: a real door and Redis, real files read at an address."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.door.revoking import lock_out
from shared import wire
from shared.config import Settings
from shared.connections import build_async_redis
from shared.grants import Grant, issue
from shared.redis_server import RedisServer
from shared.seal import Purpose, derive_key, host_keys
from tests.support.door import OpenedDoor, opened_door
from tests.support.processes import wait_until
from tests.support.sealed import SECRET
from tests.unit.worker.test_fetching_through_the_door import STUDIO, keep_a_file, key, member, reads
from worker.cache_files import server
from worker.cache_files.protocol import MAX_QUESTION_BYTES, PROBE, Channel, PeerError
from worker.host import revoked
from worker.host.lending import Lender
from worker.host.revoked import Revocations, where_told

_numbers = itertools.count()


def a_name() -> str:
    """Of a host that nobody had before: what the door tells of one of another test may come late."""
    return f"mac{next(_numbers)}"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedDoor]:
    state = tmp_path_factory.mktemp(STUDIO)
    with RedisServer() as server, opened_door(state, server, secret=SECRET) as opened:
        yield opened


@pytest.fixture(params=["shares", "joined"])
def lender(request: pytest.FixtureRequest, door: OpenedDoor, tmp_path: Path) -> Iterator[tuple[Settings, Lender]]:
    """The sharing Mac's own host, or one that joined, which lends at an address."""
    name = STUDIO if request.param == "shares" else a_name()
    settings = door.settings if name == STUDIO else member(door, tmp_path / name)
    settings = replace(settings, cache_listen="127.0.0.1:0")
    keep_a_file(settings.state_dir)
    found = Lender(settings, host_keys(settings, name).own)
    found.start()
    try:
        yield settings, found
    finally:
        found.close()


def look(settings: Settings, lender: Lender) -> None:
    """As the lender's host does each second."""

    async def once() -> None:
        async with build_async_redis(settings) as client:
            await Revocations(client, settings, lender._server._key, lender.learn).look()

    asyncio.run(once())


def look_until(settings: Settings, lender: Lender, host: str) -> None:
    """It has heard that this one was revoked. The door may just be telling what was so before."""

    def has_heard() -> bool:
        look(settings, lender)
        return lender._server._generations.get(host) == 2

    wait_until(has_heard, "it has heard of it")


def leave(lender: Lender, reader: str, generation: int = 1) -> Grant:
    """As a gateway gives it."""
    host, address = lender._server._key.host, lender.address
    return issue(key(host), reader=reader, generation=generation, address=address, tokens=256, now_s=time.time())


def revoke(door: OpenedDoor, host: str) -> None:
    async def once() -> None:
        async with build_async_redis(door.settings) as broker:
            await lock_out(door.settings, broker, host)

    asyncio.run(once())


def is_served(channel: Channel) -> bool:
    try:
        channel.say([PROBE, 1])
        answer = channel.hear(MAX_QUESTION_BYTES)
        return list(channel.receive_data(answer[1])) != []
    except (PeerError, OSError):
        return False


def test_leave_that_a_revoked_host_was_given_is_over_when_its_lender_looks_next(
    door: OpenedDoor, lender: tuple[Settings, Lender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SILENCE_S", 600.0)  # nothing but the revocation ends a connection
    settings, lends = lender
    thief, other = a_name(), a_name()
    with (
        reads(member(door, tmp_path / thief), thief) as thiefs,
        reads(member(door, tmp_path / other), other) as others,
        contextlib.ExitStack() as stack,
    ):
        look(settings, lends)
        held, free = thiefs.peers._open(leave(lends, thief)), others.peers._open(leave(lends, other))
        for channel in (held, free):
            stack.enter_context(channel.stream)
            assert is_served(channel)
        revoke(door, thief)
        look_until(settings, lends, thief)
        assert not is_served(held), "nor does a connection last that it had"
        assert thiefs.fetch(leave(lends, thief)) in ("gone", "refused")
        assert thiefs.files() == []
        assert is_served(free), "which is no matter of anybody else"
        assert others.fetch(leave(lends, other)) == ""


def test_a_host_that_joins_again_reads_with_what_it_is_given_then(
    door: OpenedDoor, lender: tuple[Settings, Lender], tmp_path: Path
) -> None:
    settings, lends = lender
    name = a_name()
    member(door, tmp_path / name)
    revoke(door, name)
    with reads(member(door, tmp_path / name), name) as reader:
        assert reader.fetch(leave(lends, name, generation=2)) == "", "before its lender has heard of it"
        reader.files()[0].unlink()
        look_until(settings, lends, name)
        assert reader.fetch(leave(lends, name, generation=2)) == "", "and after"
        assert reader.fetch(leave(lends, name)) in ("gone", "refused")


def test_what_is_not_sealed_for_the_lender_locks_nobody_out(
    door: OpenedDoor, lender: tuple[Settings, Lender], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, lends = lender
    name = a_name()
    strange = replace(settings, redis_url=door.server.url, deployment=f"not-{name}")  # of which the door says nothing
    at, _ = where_told(strange, lends._server._key)
    forged = derive_key(SECRET.encode(), "another").seal(Purpose.GENERATIONS, "another")
    with door.operator() as operator:
        operator.set(at, forged.close(wire.encode({name: 2})))
    look(strange, lends)
    assert "cannot be understood" in caplog.text
    with reads(member(door, tmp_path / name), name) as reader:
        assert reader.fetch(leave(lends, name)) == ""


def test_a_host_looks_again_and_again_until_it_stops(
    door: OpenedDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked, "EVERY_S", 0.01)
    own, other = a_name(), a_name()
    settings = replace(member(door, tmp_path / own), cache_listen="127.0.0.1:0")
    member(door, tmp_path / other)

    async def follow() -> None:
        heard, stopping = asyncio.Event(), asyncio.Event()

        def learn(told: Mapping[str, int]) -> None:
            if told.get(other) == 2:
                heard.set()

        async with build_async_redis(settings) as client, build_async_redis(door.settings) as broker:
            task = asyncio.create_task(
                Revocations(client, settings, host_keys(settings, own).own, learn).follow(stopping)
            )
            await lock_out(door.settings, broker, other)
            await asyncio.wait_for(heard.wait(), 10)
            stopping.set()
            await asyncio.wait_for(task, 10)

    asyncio.run(follow())
