"""The end of an engine's event loop leaves nothing open and nothing running."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from worker.engines.loop_end import settle


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def end(loop: asyncio.AbstractEventLoop) -> None:
    """As an engine does it."""

    async def close() -> None:
        await settle()
        loop.stop()

    loop.create_task(close())
    loop.run_forever()


def test_a_connection_that_was_closed_in_the_last_turn_has_no_socket_any_more(loop: asyncio.AbstractEventLoop) -> None:
    here, there = socket.socketpair()
    with there:
        _, writer = loop.run_until_complete(asyncio.open_connection(sock=here))
        writer.write(b"x" * (1 << 22))  # more than the other side takes
        writer.close()
        writer.transport.abort()
        assert here.fileno() != -1
        end(loop)
        assert here.fileno() == -1


def test_what_still_runs_is_cancelled_and_ends_before_the_loop_does(loop: asyncio.AbstractEventLoop) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    task = loop.create_task(work())
    loop.call_soon(task.cancel)  # a moment before: it is on its way out
    end(loop)
    assert ended == [True]
