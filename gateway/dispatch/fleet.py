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
from shared import keys, wire
from shared.errors import BrokerUnavailableError, WireError
from shared.registry import Fleet, HostRecord, WorkerLease

logger = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
_FORGET_AFTER_S = 60.0

_T = TypeVar("_T")


class FleetWatcher(Presence):
    """Refreshes `snapshot` in the background and on demand; it is connected when the last try reached Redis. `depths`
    maps a model to the jobs in its queue."""

    def __init__(self, client: redis.asyncio.Redis, *, every_s: float = 0.25) -> None:
        super().__init__()
        self._redis = client
        self._every_s = every_s
        self._workers: list[str] = []
        self._hosts: list[str] = []
        self._leaseless_since_s: dict[str, float] = {}
        self._undecodable: set[str] = set()
        self.snapshot = Fleet()
        self.depths: Mapping[str, int] = {}

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
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._read()
        except (RedisError, OSError, TimeoutError) as error:
            self._note_away(error)
            raise away_error("Redis cannot be reached", error) from error
        if self._came():
            logger.info("Redis is reached")
        return self.snapshot

    def _note_away(self, error: BaseException) -> None:
        if self._went():
            logger.warning("Redis cannot be reached: %s", reason_of(error))

    async def _read(self) -> None:
        """One round trip while nobody comes or goes, two when the names changed."""
        models = sorted({*self.snapshot.model_ids(), *self.depths})
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.smembers(keys.WORKERS)
            pipe.smembers(keys.HOSTS)
            self._queue_reads(pipe)
            for model in models:
                pipe.llen(queue_key(keys.queue(model)))
            worker_names, host_names, leases, records, *depths = await pipe.execute()
        workers, hosts = _names(worker_names), _names(host_names)
        if (workers, hosts) != (self._workers, self._hosts):
            self._workers, self._hosts = workers, hosts
            async with self._redis.pipeline(transaction=False) as pipe:
                self._queue_reads(pipe)
                leases, records = await pipe.execute()
        self.snapshot = Fleet(
            workers=self._decoded(self._workers, leases, WorkerLease),
            hosts=self._decoded(self._hosts, records, HostRecord),
        )
        alive = set(self.snapshot.model_ids())
        self.depths = {m: int(n) for m, n in zip(models, depths, strict=True) if n or m in alive}
        await self._forget_the_dead()

    def _queue_reads(self, pipe: redis.asyncio.client.Pipeline) -> None:
        """One reply for the leases and one for the hosts, also when there are none."""
        pipe.mget([keys.lease(name) for name in self._workers] or [keys.lease("")])
        pipe.mget([keys.host(name) for name in self._hosts] or [keys.host("")])

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

    async def _forget_the_dead(self) -> None:
        """Take names out of the set whose lease ended long ago; a worker that lives adds itself again."""
        now_s = time.monotonic()
        alive = {lease.worker for lease in self.snapshot.workers}
        self._leaseless_since_s = {
            name: self._leaseless_since_s.get(name, now_s) for name in self._workers if name not in alive
        }
        gone = [name for name, since_s in self._leaseless_since_s.items() if now_s - since_s > _FORGET_AFTER_S]
        if gone:
            await self._redis.srem(keys.WORKERS, *gone)


def _names(members: set[bytes]) -> list[str]:
    return sorted(member.decode(errors="replace") for member in members)  # what is no name of ours has no lease
