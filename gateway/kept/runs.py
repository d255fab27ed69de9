"""Responses that run while nobody waits for them, as they stand in Redis: what was said so far, a sign of life, and
whether somebody has cancelled them.

What was said lies in a list of chunks of events, each sealed for its place, as long as the answer is kept; a run that
says more than `MAX_SAID_BYTES` is not followed beyond that. The sign of life ends `ALIVE_S` after who runs it did.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import redis.asyncio

from gateway.kept.store import KEPT_S, asking
from shared.errors import WireError
from shared.keys import Names
from shared.seal import Keyring, Purpose, Seal
from shared.wire import WIRE_VERSION

MAX_SAID_BYTES: Final = 4_000_000
ALIVE_S: Final = 20
_VERSION: Final = bytes([WIRE_VERSION])
_SAID, _ALIVE, _CANCELLED = ".said", ".alive", ".cancelled"  # (no id that a client could name has a dot)


class RunStore:
    """`tasks` are the runs of this gateway, by (tenant, id); `heard` wakes whoever follows one of them."""

    def __init__(self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring) -> None:
        self._broker = broker
        self._names = names
        self._keyring = keyring
        self.tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._heard = asyncio.Event()

    async def say(self, tenant: str, run_id: str, place: int, events: bytes) -> None:
        """Put the chunk at its place, the next one. Raises `BrokerUnavailableError`."""
        key = self._names.kept(tenant, run_id + _SAID)
        async with asking(), self._broker.pipeline(transaction=True) as pipe:  # both or none: a place is written once
            pipe.rpush(key, self._seal(tenant, run_id, place).close(_VERSION + events))
            pipe.expire(key, KEPT_S)
            await pipe.execute()
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    async def said(self, tenant: str, run_id: str, place: int) -> list[bytes]:
        """The chunks from this place on, up to one that is not as it was written. Raises `BrokerUnavailableError`."""
        async with asking():
            rows: list[Any] = await self._broker.lrange(self._names.kept(tenant, run_id + _SAID), place, -1)
        found: list[bytes] = []
        for number, row in enumerate(rows):
            try:
                found.append(self._seal(tenant, run_id, place + number).open(row)[1:])
            except WireError:
                break
        return found

    async def wait(self, timeout_s: float) -> None:
        """Until a run of this gateway has said something, or for that long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), timeout_s)

    async def renew(self, tenant: str, run_id: str) -> bool:
        """Give a sign of life; whether the run is still wanted. Raises `BrokerUnavailableError`."""
        async with asking():
            await self._broker.set(self._names.kept(tenant, run_id + _ALIVE), b"1", ex=ALIVE_S)
            return not await self._broker.exists(self._names.kept(tenant, run_id + _CANCELLED))

    async def is_alive(self, tenant: str, run_id: str) -> bool:
        async with asking():
            return bool(await self._broker.exists(self._names.kept(tenant, run_id + _ALIVE)))

    async def cancel(self, tenant: str, run_id: str) -> None:
        """Whoever runs it finds that out with its next sign of life, and at once if it is this gateway."""
        async with asking():
            await self._broker.set(self._names.kept(tenant, run_id + _CANCELLED), b"1", ex=KEPT_S)
        self._heard.set()

    async def forget(self, tenant: str, run_id: str) -> None:
        async with asking():
            await self._broker.delete(self._names.kept(tenant, run_id + _SAID))

    def _seal(self, tenant: str, run_id: str, place: int) -> Seal:
        return self._keyring.gateways.seal(Purpose.KEPT, f"{tenant}/{run_id}{_SAID}/{place}")
