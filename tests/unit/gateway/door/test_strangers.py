"""Strangers at the door, and hosts that turned bad: what they hold, nobody else lacks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.door.crowd import Crowd
from gateway.door.door import JOIN
from shared.cache_door import CACHE, decode_words, encode_words, open_door, read_line
from shared.config import Settings
from shared.membership import with_membership, write_membership
from shared.redis_server import RedisServer
from tests.support.door import OpenedDoor, member_redis, opened_door
from tests.support.sealed import SECRET


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedDoor]:
    with RedisServer() as server, opened_door(tmp_path_factory.mktemp("studio"), server, secret=SECRET) as opened:
        yield opened


def stranger(door: OpenedDoor, alpn: str) -> ssl.SSLSocket:
    """Who shakes hands without a certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", door.port), timeout=10))


def test_who_begins_a_hundred_handshakes_and_says_nothing_locks_nobody_out(door: OpenedDoor, tmp_path: Path) -> None:
    air = door.join(tmp_path, "air")
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=10)) for _ in range(100)
        ]
        with member_redis(tmp_path, air) as client:
            assert client.ping()
        assert silent[0].recv(1) == b"", "the first had to go for the last"


def test_who_joins_and_never_says_with_what_does_not_keep_others_from_joining(door: OpenedDoor, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(stranger(door, JOIN)) for _ in range(40)]
        assert door.join(tmp_path, "mini").host == "mini"
        while silent[0].recv(4096):  # the greeting, and then the end
            pass


def test_a_stranger_is_turned_away_from_caches_at_once(door: OpenedDoor) -> None:
    with stranger(door, CACHE) as stream:
        stream.sendall(encode_words(read="studio"))
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert stream.recv(4096) == b""


def test_one_host_that_reads_without_end_leaves_places_for_others(door: OpenedDoor, tmp_path: Path) -> None:
    def member(name: str) -> Settings:
        state = tmp_path / name
        joined = door.join(state, name)
        write_membership(state, joined)
        return with_membership(Settings(state_dir=state), joined)

    def asks(settings: Settings) -> ssl.SSLSocket | socket.socket:
        stream = stack.enter_context(open_door(settings))
        stream.sendall(encode_words(read="lender"))
        return stream

    bad, good, lender = member("bad"), member("good"), member("lender")
    with contextlib.ExitStack() as stack:
        lends = stack.enter_context(open_door(lender))
        lends.sendall(encode_words(lend="lender"))
        assert decode_words(read_line(lends)) == {"lending": True}
        for _ in range(8):
            asks(bad)
            assert "reader" in decode_words(read_line(lends))
        assert decode_words(read_line(asks(bad))) == {"refused": "too many read at once"}
        asks(good)
        assert "reader" in decode_words(read_line(lends))


def test_of_a_crowd_the_longest_there_goes_for_the_newest() -> None:
    async def run() -> list[str]:
        crowd, ends = Crowd(2), []

        async def stays(name: str, until: asyncio.Event) -> None:
            try:
                with crowd.one():
                    await until.wait()
                ends.append(f"{name} is through")
            except asyncio.CancelledError:
                ends.append(f"{name} had to go")

        until = asyncio.Event()
        tasks = [asyncio.create_task(stays(name, until)) for name in ("first", "second", "third")]
        await asyncio.sleep(0)
        await asyncio.wait(tasks[:1])
        until.set()
        await asyncio.gather(*tasks)
        return ends

    assert asyncio.run(run()) == ["first had to go", "second is through", "third is through"]
