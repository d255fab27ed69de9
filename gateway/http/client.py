"""A client that waits for an answer: whether it is still there, and what it reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from starlette.types import Receive

from gateway.dispatch.choices import ChoiceReaders
from gateway.dispatch.readers import EventReader


class Client:
    """Who has sent all of a body, so that the next message says that it has gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._reading: ChoiceReaders | None = None
        self.has_left = False

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        if self._reading is not None:
            self._reading.abandon()

    @contextlib.asynccontextmanager
    async def reading(self, readers: Sequence[EventReader]) -> AsyncIterator[ChoiceReaders]:
        """What it reads, for as long as it stays."""
        self._reading = reading = ChoiceReaders(readers)
        if self.has_left:
            reading.abandon()
        try:
            yield reading
        finally:
            self._reading = None
            await reading.aclose()


@contextlib.asynccontextmanager
async def client_of(receive: Receive) -> AsyncIterator[Client]:
    client = Client(receive)
    watcher = asyncio.create_task(client.watch())
    try:
        yield client
    finally:
        watcher.cancel()


@contextlib.asynccontextmanager
async def reading_of(receive: Receive, readers: Sequence[EventReader]) -> AsyncIterator[ChoiceReaders]:
    """What one client reads, for as long as it stays."""
    async with client_of(receive) as client, client.reading(readers) as reading:
        yield reading
