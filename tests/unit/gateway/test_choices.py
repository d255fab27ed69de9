"""Several choices of one answer are requests of their own, read by one client."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.dispatch.choices import ChoiceReaders, requests_of
from shared.errors import OverloadedError
from shared.events import Event, Failed
from shared.request import GenerateRequest, SamplingParams
from shared.wire import FrameEntry
from tests.support.gateway import FINISHED, STARTED, new_dispatch, text


def request(**sampling: Any) -> GenerateRequest:
    return GenerateRequest(id="r", model="m", messages=(), sampling=SamplingParams(**sampling))


@pytest.mark.parametrize(
    ("sampling", "seeds"),
    [
        ({"seed": 7}, [7, 8, 9]),
        ({"seed": (1 << 63) - 1}, [(1 << 63) - 1, 0, 1]),
        ({"seed": 7, "temperature": 0.0}, [7, 7, 7]),
        ({}, [None, None, None]),
    ],
)
def test_choices_have_ids_of_their_own_and_a_row_of_seeds(sampling: dict[str, Any], seeds: list[int | None]) -> None:
    requests = requests_of(request(**sampling), 3)
    assert [each.sampling.seed for each in requests] == seeds
    assert requests[0].id == "r"
    assert len({each.id for each in requests}) == 3
    assert not any(":" in each.id for each in requests)


class Client:
    """Streams of two choices, and the client who reads them."""

    def __init__(self) -> None:
        self.streams = [new_dispatch(f"r{n}") for n in range(2)]
        self.readers = ChoiceReaders([stream.join() for stream in self.streams])
        self.said = [0, 0]

    def say(self, choice: int, *events: Event) -> None:
        entry = FrameEntry(request_id=f"r{choice}", attempt=1, seq=self.said[choice], token_ids=(), events=events)
        self.said[choice] += 1
        self.streams[choice].take(entry, "worker", "epoch")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 40))


def test_events_carry_their_choice_until_the_last_one_ends() -> None:
    async def scenario() -> None:
        client = Client()
        client.say(1, STARTED)
        assert await client.readers.wait(5) == [(1, STARTED)]
        client.say(0, STARTED, text("a"), FINISHED)
        assert await client.readers.wait(5) == [(0, STARTED), (0, text("a")), (0, FINISHED)]
        assert not client.readers.is_over
        assert await client.readers.wait(0) == []
        client.say(1, text("b"), FINISHED)
        assert await client.readers.wait(5) == [(1, text("b")), (1, FINISHED)]
        assert client.readers.is_over
        await client.readers.aclose()

    run(scenario())


def test_a_failure_of_one_choice_ends_them_all() -> None:
    async def scenario() -> None:
        client = Client()
        failed = Failed.of(OverloadedError("full"))
        client.say(0, STARTED, failed)
        client.say(1, STARTED)
        told = await client.readers.wait(5)
        assert told[-1] == (0, failed)
        assert client.readers.is_over
        await client.readers.aclose()

    run(scenario())


def test_a_client_that_leaves_leaves_every_choice() -> None:
    async def scenario() -> None:
        client = Client()
        waiting = asyncio.create_task(client.readers.wait(60))
        await asyncio.sleep(0)
        client.readers.abandon()
        assert await waiting == []
        assert client.readers.is_abandoned
        await client.readers.aclose()

    run(scenario())
