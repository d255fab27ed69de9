"""Whether the server behind a model counts as up: by its requests, and by looking where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shared.errors import ModelUnavailableError
from shared.http_client import AskError
from tests.support.gateway import until
from worker.engines.remote.presence import Presence


class Server:
    """`looks`: how often somebody asked whether it is there."""

    def __init__(self) -> None:
        self.is_there = True
        self.looks = 0

    async def find(self) -> None:
        self.looks += 1
        if not self.is_there:
            raise ModelUnavailableError("no server of models answers")


def play(scenario: Callable[[Presence, Server], Awaitable[None]], every_s: float = 0.01) -> None:
    async def main() -> None:
        server = Server()
        presence = Presence(server.find, every_s=every_s)
        presence.start()
        try:
            await scenario(presence, server)
        finally:
            await presence.close()

    asyncio.run(main())


def test_it_is_down_before_anybody_has_met_it() -> None:
    assert not Presence(Server().find).is_up


def test_one_that_goes_and_comes_back_is_noticed_without_a_request() -> None:
    async def scenario(presence: Presence, server: Server) -> None:
        await until(lambda: presence.is_up, "it is there")
        server.is_there = False
        await until(lambda: not presence.is_up, "it is gone")
        server.is_there = True
        await until(lambda: presence.is_up, "it is back")

    play(scenario)


def test_a_request_tells_at_once() -> None:
    async def scenario(presence: Presence, server: Server) -> None:
        with presence.asked():
            pass
        assert presence.is_up
        with pytest.raises(AskError), presence.asked():
            raise AskError("the connection broke")
        assert not presence.is_up
        assert server.looks == 0

    play(scenario, every_s=600)


def test_an_error_that_the_server_answers_with_says_nothing_against_it() -> None:
    presence = Presence(Server().find)
    presence.note(True)
    with pytest.raises(ModelUnavailableError), presence.asked():
        raise ModelUnavailableError("it said so")
    assert presence.is_up


def test_nobody_looks_while_a_request_is_asked() -> None:
    async def scenario(presence: Presence, server: Server) -> None:
        with presence.asked():
            looks = server.looks
            for _ in range(20):
                await asyncio.sleep(0.002)
            assert server.looks == looks
        await until(lambda: server.looks > looks, "it is looked for again")

    play(scenario)
