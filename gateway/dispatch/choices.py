"""Several choices in one answer: a request for each of them, and one client who reads them all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gateway.dispatch.readers import EventReader
from gateway.dispatch.tasks import cancel_all
from shared.events import Event, Failed, Finished
from shared.request import GenerateRequest

_LONG_S = 3600.0
_SEED_BITS = 0x7FFF_FFFF_FFFF_FFFF


def requests_of(request: GenerateRequest, choices: int) -> list[GenerateRequest]:
    """One for each choice, the first under the request's own id. A seed becomes a row of seeds, so that choices differ
    and the same request gets the same ones; without chance they are the same, and computed once."""
    return [request, *(_of_choice(request, choice) for choice in range(1, choices))]


def _of_choice(request: GenerateRequest, choice: int) -> GenerateRequest:
    sampling = request.sampling
    if sampling.seed is not None and sampling.temperature != 0:
        sampling = replace(sampling, seed=(sampling.seed + choice) & _SEED_BITS)
    return replace(request, id=f"{request.id}_{choice}", sampling=sampling)


class ChoiceReaders:
    """A client's places in the events of its choices. Read by one task."""

    def __init__(self, readers: Sequence[EventReader]) -> None:
        self._readers = readers
        self._waits: dict[asyncio.Task[list[Event]], int] = {}
        self._open = set(range(len(readers)))

    @property
    def is_abandoned(self) -> bool:
        return any(reader.is_abandoned for reader in self._readers)

    @property
    def is_over(self) -> bool:
        """Whether every choice has ended, or one has failed."""
        return not self._open

    def abandon(self) -> None:
        """The client has left: wake whoever waits."""
        for reader in self._readers:
            reader.abandon()

    async def wait(self, timeout_s: float) -> list[tuple[int, Event]]:
        """(choice, event) of everything that arrived since the last call; empty after `timeout_s`, or once abandoned.
        Nothing after a `Failed`, which ends them all."""
        if len(self._readers) == 1:
            found = [(0, event) for event in await self._readers[0].wait(timeout_s)]
        else:
            found = await self._wait_any(timeout_s)
        for place, (choice, event) in enumerate(found):
            if isinstance(event, Failed):
                self._open.clear()
                return found[: place + 1]
            if isinstance(event, Finished):
                self._open.discard(choice)
        return found

    async def _wait_any(self, timeout_s: float) -> list[tuple[int, Event]]:
        for choice in self._open.difference(self._waits.values()):
            self._waits[asyncio.create_task(self._readers[choice].wait(_LONG_S))] = choice
        done, _ = await asyncio.wait(self._waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        arrived = sorted(((self._waits.pop(task), task.result()) for task in done), key=lambda one: one[0])
        return [(choice, event) for choice, events in arrived for event in events]

    async def aclose(self) -> None:
        await cancel_all(self._waits)
