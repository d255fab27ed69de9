"""A host that leaves hands its latest conversations over: its workers have written them, and the others, each told by a
gateway with leave to read, fetch a part each while it still lends. So a conversation's next turn finds its prefix on
the new Mac's disk; what was not fetched in time is computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Final

import redis.asyncio

from gateway.dispatch.asking import asking_redis
from gateway.dispatch.fleet import FleetWatcher
from shared import wire
from shared.beats import until_beat_s
from shared.errors import BrokerUnavailableError
from shared.grants import issue
from shared.keys import Names, host_of, word
from shared.registry import Fleet, HostRecord
from shared.request import TakeOver
from shared.seal import Keyring, Purpose

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0
_CODE: Final = wire.code_of(TakeOver)


@dataclass(frozen=True, slots=True)
class Handover:
    """The host of this word, in this life of it, leaves: `worker` is to fetch one of the parts from `address`."""

    host: str
    instance: str
    address: str
    worker: str
    part: int
    parts: int

    @property
    def key(self) -> tuple[str, str]:
        return self.instance, self.worker


def handovers(fleet: Fleet, done: Set[tuple[str, str]]) -> list[Handover]:
    """Those that are not done yet: of each host that leaves, once its workers are gone and with them all is written."""
    leaving = [host for host in fleet.hosts if host.is_draining and host.files]
    return [each for host in leaving for each in _of(host, fleet) if each.key not in done]


def _of(host: HostRecord, fleet: Fleet) -> Iterator[Handover]:
    name = word(host.host)
    draining = {word(each.host) for each in fleet.hosts if each.is_draining}
    at_work = {worker.model for worker in fleet.workers if host_of(worker.worker) == name}
    for model in dict.fromkeys(record.id for record in host.models):
        takers = [
            worker.worker
            for worker in fleet.ready_workers(model)
            if host_of(worker.worker) not in draining and _CODE in worker.reader.codes
        ]
        for part, taker in enumerate(sorted(takers) if model not in at_work else ()):
            yield Handover(name, host.instance, host.files, taker, part, len(takers))


class Handovers:
    """Looks for hosts that leave, and tells workers. Two gateways that do so do no harm."""

    def __init__(self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring, fleet: FleetWatcher) -> None:
        self._redis = broker
        self._names = names
        self._keyring = keyring
        self._fleet = fleet
        self._done: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(until_beat_s(_LOOK_EVERY_S))
            try:
                await self.look()
            except BrokerUnavailableError as error:
                logger.debug("nobody is told that a host leaves: %s", error)

    async def look(self) -> None:
        """Once. Raises `BrokerUnavailableError`."""
        fleet = self._fleet.snapshot
        instances = {host.instance for host in fleet.hosts}
        self._done = {key for key in self._done if key[0] in instances}
        for each in handovers(fleet, self._done):
            if await self._tell(each):
                self._done.add(each.key)
                logger.info("%s leaves: %s takes part %d of %d over", each.host, each.worker, each.part + 1, each.parts)

    async def _tell(self, to: Handover) -> bool:
        """Whether the worker hears it."""
        grant = issue(
            self._keyring.of(to.host),
            reader=(reader := host_of(to.worker)),
            generation=self._keyring.generation(reader),
            address=to.address,
            tokens=0,
            now_s=time.time(),
            is_handover=True,
        )
        message = TakeOver(grant=grant.encode(), part=to.part, parts=to.parts)
        data = self._keyring.of_worker(to.worker).seal(Purpose.CONTROL, to.worker).close(wire.encode(message))
        async with asking_redis("a worker could not be told that a host leaves"):
            return bool(await self._redis.publish(self._names.worker_channel(to.worker), data))
