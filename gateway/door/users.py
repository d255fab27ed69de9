"""The Redis users of the hosts that joined, and the generations of their keys: set in each life of Redis before anyone
is let in, since a Redis that restarts empty knows neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from gateway.door.folder import DoorFolder, JoinedHost, generations
from shared import wire
from shared.acl import gateway_rules, host_rules
from shared.errors import BrokerUnavailableError, ConfigError
from shared.keys import Names
from shared.membership import GATEWAY, HOST
from shared.seal import Keyring, Purpose


class HostUsers:
    """`broker` is of a user that may make users. Every method raises `BrokerUnavailableError` when Redis is away, and
    `ConfigError` when it does not let us make users."""

    def __init__(self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring, folder: DoorFolder) -> None:
        self._redis = broker
        self._names = names
        self._keyring = keyring
        self._folder = folder
        self._life = ""
        self._can_only_read = False

    def name_of(self, host: str) -> str:
        return self._names.host_user(host)

    def forget(self) -> None:
        """The list of hosts has changed: all is set again by the next `ensure`."""
        self._life = ""

    async def ensure(self) -> None:
        """Once in each life of Redis: the users of all hosts."""
        try:
            info: Mapping[str, Any] = await self._redis.info("server")
            if info["run_id"] == self._life:
                return
            self._can_only_read = int(str(info["redis_version"]).partition(".")[0]) >= 7
            hosts = self._folder.hosts()
            for host in hosts.values():
                await self._set(host)
            await self._tell(hosts)
            self._life = str(info["run_id"])
        except (RedisError, OSError) as error:
            raise _error_of(error) from error

    async def add(self, host: JoinedHost) -> None:
        """A host that has just been noted."""
        try:
            await self._set(host)
            await self._tell(self._folder.hosts())
        except (RedisError, OSError) as error:
            raise _error_of(error) from error

    async def remove(self, name: str) -> None:
        """The user goes, and with it every connection of its own."""
        try:
            await self._redis.execute_command("ACL", "DELUSER", self._names.host_user(name))  # type: ignore[no-untyped-call]
            await self._tell(self._folder.hosts())
        except (RedisError, OSError) as error:
            raise _error_of(error) from error

    async def _set(self, host: JoinedHost) -> None:
        user = self._names.host_user(host.name)
        if host.is_revoked:
            await self._redis.execute_command("ACL", "DELUSER", user)  # type: ignore[no-untyped-call]
            return
        rules = (
            gateway_rules(self._names)
            if host.role == GATEWAY
            else host_rules(self._names, host.name, can_only_read=self._can_only_read)
        )
        words = ("reset", "on", f"#{host.password_digest}", *rules)
        await self._redis.execute_command("ACL", "SETUSER", user, *words)  # type: ignore[no-untyped-call]

    async def _tell(self, hosts: Mapping[str, JoinedHost]) -> None:
        """All gateways, which derive the keys of hosts; and each host that joined, which lets others read by them."""
        told = generations(dict(hosts))
        data = wire.encode(told)
        self._keyring.learn(told)
        sealed = {self._names.generations: self._keyring.gateways.seal(Purpose.GENERATIONS).close(data)}
        for host in hosts.values():
            if host.role == HOST and not host.is_revoked:
                seal = self._keyring.of(host.name).seal(Purpose.GENERATIONS, host.name)
                sealed[self._names.generations_for(host.name)] = seal.close(data)
        await self._redis.mset(sealed)


def _error_of(error: Exception) -> BrokerUnavailableError | ConfigError:
    if isinstance(error, ResponseError):  # that it lacks the permission is one
        return ConfigError(f"Redis does not let us make users for the hosts that join: {error}")
    return BrokerUnavailableError(f"Redis cannot be reached: {error}")


async def withdraw(broker: redis.asyncio.Redis, names: Names, host: str) -> None:
    """Nothing of the host's is served any more: its record, its workers' leases and what they are said to have kept.
    Whoever waits for it is served elsewhere. Raises `RedisError` and `OSError`."""
    members = cast(set[bytes], await broker.smembers(names.workers))
    workers = [name.decode() for name in members if name.startswith(f"{host}.".encode())]
    per_worker = (names.lease, names.resident, names.soon, names.placed, names.bell)
    disk = [key async for key in broker.scan_iter(names.disk(host, "*"), count=1000)]
    async with broker.pipeline(transaction=True) as pipe:
        for worker in workers:
            pipe.delete(*(name(worker) for name in per_worker))
            pipe.srem(names.workers, worker)
        pipe.delete(names.host(host), *disk)
        pipe.srem(names.hosts, host)
        await pipe.execute()
