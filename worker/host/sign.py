"""A host's sign of life: its record in Redis, and its name among those of all hosts."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import redis.asyncio
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError, ResponseError

from shared import keys, wire
from shared.errors import ConfigError, WireError
from shared.healing import heal_async, is_wrong_type
from shared.keys import Names
from shared.membership import LOCKED_OUT
from shared.processes import is_running
from shared.registry import HostRecord
from shared.seal import Seal

logger = logging.getLogger(__name__)


_RENEWED_S = 2.2 * keys.LEASE_EVERY_S
_LOOK_S = 0.1
_NAMED_EVERY = 5  # records: in the set of all hosts, where who lives may only be missed when somebody took it away


class SignOfLife:
    """What Redis has of the host of this `word`. Trouble with Redis is said once in the log, until it is over."""

    def __init__(self, client: redis.asyncio.Redis, names: Names, word: str, seal: Seal) -> None:
        self._redis = client
        self._names = names
        self._word = word
        self._seal = seal
        self._key = names.host(word)
        self._has_told = False
        self._written = 0
        self._said: HostRecord | None = None
        self._data = b""  # the record as it is written

    async def read(self) -> HostRecord | None:
        """The record of whoever has this name; None where there is none that can be read."""
        try:
            data = await self._redis.get(self._key)
            found = wire.decode(self._seal.open(data)) if isinstance(data, bytes) else None
        except (RedisError, OSError) as error:
            self._tell(error)
            return None
        except WireError as error:
            logger.warning("what another version left under our name is overwritten: %s", error)
            return None
        return found if isinstance(found, HostRecord) else None

    async def check_free(self, mine: HostRecord) -> None:
        """Raises `ConfigError` when another host that lives has the name: two would overwrite each other's record. One
        of this machine lives while its process does; one of another while it renews its record."""
        other = await self.read()
        if other is None or other.instance == mine.instance:
            return
        is_here = other.machine == mine.machine
        if is_running(other.pid) if is_here else await self._is_renewed():
            raise ConfigError(_taken(other, is_here))

    async def _is_renewed(self) -> bool:
        try:
            left_ms = await self._redis.pttl(self._key)
            for _ in range(round(_RENEWED_S / _LOOK_S)):
                await asyncio.sleep(_LOOK_S)
                before_ms, left_ms = left_ms, await self._redis.pttl(self._key)
                if left_ms > before_ms:
                    return True
        except (RedisError, OSError) as error:
            self._tell(error)
        return False

    async def renew(self, record: HostRecord) -> None:
        """Write the record. A set of names that holds something else is made anew. Raises `ConfigError` when the door
        of the fleet says that this host is no member any more, and when a host that began earlier has the name."""
        try:
            try:
                await self._write(record)
            except ResponseError as error:
                if not is_wrong_type(error):
                    raise
                await heal_async(self._redis, {self._key: "string", self._names.hosts: "set"})
                self._written = 0
                await self._write(record)
        except (RedisError, OSError) as error:
            if isinstance(error, NoPermissionError) and LOCKED_OUT in str(error):
                raise ConfigError(str(error)) from error
            self._tell(error)
        else:
            self._has_told = False

    async def _write(self, record: HostRecord) -> None:
        """Where Redis is full, the record that it has is made to last, which takes no memory. Where it had none, it was
        emptied, or we were away for too long."""
        try:
            data = self._sealed(record)
            before = await self._redis.set(self._key, data, ex=keys.HOST_TTL_S, get=True)
            if before is None or self._written % _NAMED_EVERY == 0:
                await self._redis.sadd(self._names.hosts, self._word)
            if self._written and before != data:  # what our first one replaces may be of a host that is gone
                self._give_way(before, record)
            self._written += 1
        except OutOfMemoryError:
            if not await self._redis.expire(self._key, keys.HOST_TTL_S):
                raise

    def _sealed(self, record: HostRecord) -> bytes:
        """Mostly the one before says the same."""
        if record != self._said:
            self._said, self._data = record, self._seal.close(wire.encode(record))
        return self._data

    def _give_way(self, before: object, mine: HostRecord) -> None:
        """Of two that began at once, or of a Mac and its copy, the later one ends."""
        if not isinstance(before, bytes):
            return
        try:
            other = wire.decode(self._seal.open(before))
        except WireError:
            return
        if isinstance(other, HostRecord) and is_earlier(other, mine):
            raise ConfigError(_taken(other, other.machine == mine.machine))

    async def is_alone(self) -> bool:
        """Whether no other host is known. Not while that cannot be found out."""
        with contextlib.suppress(RedisError, OSError):
            return int(await self._redis.scard(self._names.hosts)) <= 1
        return False

    async def withdraw(self) -> None:
        """The host is not seen any more."""
        with contextlib.suppress(RedisError, OSError):  # the record's TTL does it otherwise
            await self._redis.delete(self._key)
            await self._redis.srem(self._names.hosts, self._word)

    def _tell(self, error: Exception) -> None:
        if not self._has_told:
            what = (
                "Redis refuses what this host writes" if isinstance(error, ResponseError) else "Redis cannot be reached"
            )
            logger.warning("%s: %s", what, error)
        self._has_told = True


def is_earlier(other: HostRecord, mine: HostRecord) -> bool:
    """Whether the other keeps the name when two live hosts have it."""
    is_another = other.instance not in ("", mine.instance)
    return is_another and (other.since_s, other.instance) < (mine.since_s, mine.instance)


def _taken(other: HostRecord, is_here: bool) -> str:
    where = f"pid {other.pid}" if is_here else "on another machine"
    return f"a host called {other.host!r} ({where}) serves on this Redis already: give this one a --name"
