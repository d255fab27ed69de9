"""Watches who is alive: a snapshot of leases, hosts and queue depths, a fraction of a second old.

Every decision of the gateway is taken on this snapshot, so that a request costs no extra round trip.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import redis.asyncio
from redis.exceptions import RedisError

from gateway.dispatch.jobs import queue_key
from gateway.dispatch.presence import Presence, away_error, reason_of
from shared import wire
from shared.errors import BrokerUnavailableError, WireError
from shared.keys import Names
from shared.places import NONE, Counts
from shared.registry import Fleet, HostRecord, WorkerLease
from shared.request import PRIORITIES

logger = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
_FORGET_AFTER_S = 60.0

_T = TypeVar("_T")


class FleetWatcher(Presence):
    """Refreshes `snapshot` in the background and on demand; it is connected when the last try reached Redis. `unplaced`
    maps a model to the jobs that wait until a worker holds it, by class.

    One reads at a time: who asks while somebody reads waits for the next read, which is of everybody who asked before
    it began.
    """

    def __init__(
        self,
        broker: redis.asyncio.Redis,
        names: Names,
        *,
        every_s: float = 0.25,
        forget_after_s: float = _FORGET_AFTER_S,
    ) -> None:
        super().__init__()
        self._redis = broker
        self._names = names
        self._every_s = every_s
        self._forget_after_s = forget_after_s
        self._workers: list[str] = []
        self._hosts: list[str] = []
        self._absent_since_s: dict[tuple[str, str], float] = {}
        self._undecodable: set[str] = set()
        self._reading = asyncio.Lock()
        self._begun = self._ended = 0  # reads, by number
        self._failure: Exception | None = None  # of the last read that ended
        self.snapshot = Fleet()
        self.unplaced: Mapping[str, Counts] = {}

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh()
            except BrokerUnavailableError as error:
                logger.debug("fleet not refreshed: %s", error)
            await asyncio.sleep(self._every_s)

    async def refresh(self) -> Fleet:
        """The fleet as of now. Raises `BrokerUnavailableError`; `snapshot` then keeps its last content."""
        begun_before = self._begun
        async with self._reading:
            if self._ended <= begun_before:
                await self._read_next()
            failure = self._failure
        if failure is not None:
            raise away_error("Redis cannot be reached", failure) from failure
        return self.snapshot

    async def _read_next(self) -> None:
        self._begun += 1
        self._failure = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._read()
        except (RedisError, OSError, TimeoutError) as error:
            self._failure = error
            self._note_away(error)
        else:
            if self._came():
                logger.info("Redis is reached")
        self._ended = self._begun

    def _note_away(self, error: BaseException) -> None:
        if self._went():
            logger.warning("Redis cannot be reached: %s", reason_of(error))

    async def _read(self) -> None:
        """One round trip while nobody comes or goes, two when the names changed."""
        models = self._waited_for()
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.smembers(self._names.workers)
            pipe.smembers(self._names.hosts)
            self._queue_reads(pipe)
            for model in models:
                for priority in PRIORITIES:
                    pipe.llen(queue_key(self._names.queue(model, priority)))
            worker_names, host_names, leases, records, *depths = await pipe.execute()
        workers, hosts = _names(worker_names), _names(host_names)
        if (workers, hosts) != (self._workers, self._hosts):
            self._workers, self._hosts = workers, hosts
            async with self._redis.pipeline(transaction=False) as pipe:
                self._queue_reads(pipe)
                leases, records = await pipe.execute()
        self.snapshot = Fleet(
            workers=self._decoded(workers, leases, WorkerLease), hosts=self._decoded(hosts, records, HostRecord)
        )
        rows = zip(*[iter(depths)] * len(PRIORITIES), strict=True)
        self.unplaced = {model: tuple(map(int, row)) for model, row in zip(models, rows, strict=True) if any(row)}
        await self._forget_the_dead(
            [(self._names.workers, name) for name in _absent(workers, leases)]
            + [(self._names.hosts, name) for name in _absent(hosts, records)]
        )

    def _waited_for(self) -> list[str]:
        """The models on whose own lists something may lie: those that nobody holds, and where something lay."""
        fleet = self.snapshot
        return sorted({*self.unplaced, *(model for model in fleet.model_ids() if not fleet.ready_workers(model))})

    @property
    def depths(self) -> dict[str, Counts]:
        """Jobs that no worker has claimed, by model and class."""
        found = dict.fromkeys(self.snapshot.model_ids(), NONE) | dict(self.unplaced)
        for worker in self.snapshot.workers:
            found[worker.model] = tuple(map(sum, zip(found[worker.model], worker.queued or NONE, strict=True)))
        return found

    def _queue_reads(self, pipe: redis.asyncio.client.Pipeline) -> None:
        """One reply for the leases and one for the hosts, also when there are none."""
        pipe.mget([_member(self._names.lease(name)) for name in self._workers] or [self._names.lease("")])
        pipe.mget([_member(self._names.host(name)) for name in self._hosts] or [self._names.host("")])

    def _decoded(self, names: Sequence[str], values: Sequence[bytes | None], kind: type[_T]) -> tuple[_T, ...]:
        found: list[_T] = []
        for name, data in zip(names, values, strict=False):
            if data is None:
                continue
            try:
                value = wire.decode(data)
            except WireError as error:
                value = error
            if isinstance(value, kind):
                found.append(value)
            elif name not in self._undecodable:
                self._undecodable.add(name)
                logger.error("%s says something else than a %s: %s", name, kind.__name__, value)
        return tuple(found)

    async def _forget_the_dead(self, absent: Sequence[tuple[str, str]]) -> None:
        """Take (set, name) out whose lease or record ended long ago; who lives adds itself again."""
        now_s = time.monotonic()
        self._absent_since_s = {each: self._absent_since_s.get(each, now_s) for each in absent}
        for (group, name), since_s in self._absent_since_s.items():
            if now_s - since_s > self._forget_after_s:
                await self._redis.srem(group, _member(name))


def _names(members: set[bytes]) -> list[str]:
    """As text, which `_member` turns into the same bytes again: also names that are none of ours must go one day."""
    return sorted(member.decode(errors="surrogateescape") for member in members)


def _member(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _absent(names: Sequence[str], values: Sequence[bytes | None]) -> list[str]:
    return [name for name, value in zip(names, values, strict=False) if value is None]
