"""Looking at what workers keep of prompts, and telling them to drop some of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import redis.asyncio

from gateway.dispatch.asking import asking_redis
from gateway.dispatch.fleet import FleetWatcher
from shared import wire
from shared.errors import WireError
from shared.fits import misfit
from shared.keys import Names
from shared.pieces import LookAtPieces, Pieces
from shared.registry import WorkerLease
from shared.seal import Keyring, Purpose

_CODE: Final = wire.code_of(LookAtPieces)
_POLL_S: Final = 0.05
_PURPOSE: Final = "what workers keep of prompts could not be read"


class PieceLook:
    """Of one gateway. Workers answer between two steps of their engines."""

    def __init__(
        self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring, fleet: FleetWatcher, gateway: str
    ) -> None:
        self._redis = broker
        self._names = names
        self._keyring = keyring
        self._fleet = fleet
        self._gateway = gateway

    def workers(self) -> list[WorkerLease]:
        """Those that know how to answer."""
        return [each for each in self._fleet.snapshot.workers if _CODE in each.reader.codes]

    async def look(
        self, workers: Collection[str], *, drop: Mapping[str, Sequence[bytes]] | None = None, wait_s: float
    ) -> dict[str, Pieces]:
        """By worker, of those that answered in time. `drop` are keys of pieces, by worker. Raises
        `BrokerUnavailableError`."""
        number = secrets.token_hex(8)
        async with asking_redis(_PURPOSE):
            for worker in workers:
                await self._ask(worker, number, tuple((drop or {}).get(worker, ())))
        end_s = asyncio.get_running_loop().time() + wait_s
        found: dict[str, Pieces] = {}
        while left := [worker for worker in workers if worker not in found]:
            found |= await self._read(left, number)
            if asyncio.get_running_loop().time() >= end_s:
                break
            if len(found) < len(workers):
                await asyncio.sleep(_POLL_S)
        return found

    async def _ask(self, worker: str, number: str, drop: tuple[bytes, ...]) -> None:
        message = wire.encode(LookAtPieces(gateway=self._gateway, number=number, drop=drop))
        seal = self._keyring.of_worker(worker).seal(Purpose.CONTROL, worker)
        await self._redis.publish(self._names.worker_channel(worker), seal.close(message))

    async def _read(self, workers: Sequence[str], number: str) -> dict[str, Pieces]:
        async with asking_redis(_PURPOSE):
            told = await self._redis.mget([self._names.pieces(worker, self._gateway) for worker in workers])
        opened = {worker: self._open(worker, data) for worker, data in zip(workers, told, strict=True) if data}
        return {worker: each for worker, each in opened.items() if each is not None and each.number == number}

    def _open(self, worker: str, data: Any) -> Pieces | None:
        try:
            value: Any = wire.decode(self._keyring.of_worker(worker).seal(Purpose.PIECES, worker).open(data))
        except WireError:
            return None
        return value if isinstance(value, Pieces) and not misfit(value) else None
