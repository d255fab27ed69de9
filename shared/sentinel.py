"""Redis behind Sentinel: `redis+sentinel://[user:password@]host:port,host:port/service[/database]`.

The sentinels say which server is the master now (https://redis.io/docs/latest/develop/reference/sentinel-clients/).
`rediss+sentinel://` speaks TLS with the servers, and with the sentinels. Options behind `?` are those of `redis://`;
`sentinel_username` and `sentinel_password` are for the sentinels.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

Address = tuple[str, int]  # host and port

SCHEMES = ("redis+sentinel", "rediss+sentinel")
_PORT = 26379
_OWN = "sentinel_"  # what options for the sentinels begin with
_CHANCE = random.Random()  # of its own: a thread asks now and then
_ASK_S = 0.5  # one sentinel, before the next is asked


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who knows the master of `service`: hosts and ports, and how to speak to them."""

    addresses: tuple[Address, ...]
    service: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def in_turn(self) -> Iterable[Address]:
        """Beginning with any of them, so that a dead one costs few of those who ask."""
        return _CHANCE.sample(self.addresses, len(self.addresses))

    def _asking(self, host: str, port: int) -> dict[str, Any]:
        """Arguments of a client of one of them."""
        patience = {"socket_timeout": _ASK_S, "socket_connect_timeout": _ASK_S, "retry": None}
        return {"host": host, "port": port, "protocol": 2, **patience, **self.options}

    def client(self, host: str, port: int) -> redis.Redis:
        return redis.Redis(**self._asking(host, port))

    def master(self) -> Address:
        """Raises `redis.ConnectionError` where none of them knows."""
        last: Exception | None = None
        for host, port in self.in_turn():
            try:
                with self.client(host, port) as sentinel:
                    found = _address_in(sentinel.sentinel_get_master_addr_by_name(self.service))
            except (RedisError, OSError, ValueError) as error:
                last = error
                continue
            if found is not None:
                return found
        raise self._unknown(last)

    async def master_async(self) -> Address:
        """The same from an event loop."""
        last: Exception | None = None
        for host, port in self.in_turn():
            try:
                async with redis.asyncio.Redis(**self._asking(host, port)) as sentinel:
                    found = _address_in(await sentinel.sentinel_get_master_addr_by_name(self.service))
            except (RedisError, OSError, ValueError) as error:
                last = error
                continue
            if found is not None:
                return found
        raise self._unknown(last)

    def _unknown(self, last: Exception | None) -> RedisConnectionError:
        names = ", ".join(f"{host}:{port}" for host, port in self.addresses)
        why = f": {last}" if last is not None else ""
        return RedisConnectionError(f"no sentinel of {names} knows the master of {self.service}{why}")


def is_sentinel(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES


def sentinels_of(url: str) -> Sentinels:
    """Who is asked. Raises `ValueError`."""
    return parsed(url)[0]


def first_address(url: str) -> Address:
    """Of the sentinels. Raises `ValueError`."""
    return _addresses(urlsplit(url).netloc)[0]


def _addresses(netloc: str) -> tuple[Address, ...]:
    found = []
    for text in netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{text.strip()}")
        if not one.hostname:
            raise ValueError(f"{text!r} is no address of a sentinel")
        found.append((one.hostname, one.port or _PORT))
    return tuple(found)


def parsed(url: str) -> tuple[Sentinels, str]:
    """Who is asked, and the URL of a master that they might name. Raises `ValueError`."""
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the name of the service is missing: redis+sentinel://host:26379,host:26379/SERVICE/0")
    query = dict(parse_qsl(parts.query))
    own: dict[str, Any] = {
        name: query.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in query
    }
    scheme = parts.scheme.partition("+")[0]
    if scheme == "rediss":
        own |= {"ssl": True} | {name: value for name, value in query.items() if name.startswith("ssl_")}
    user, at, _ = parts.netloc.rpartition("@")
    plain = f"{scheme}://{user}{at}master/{database}" + (f"?{urlencode(query)}" if query else "")
    return Sentinels(_addresses(parts.netloc), service, own), plain


def _address_in(reply: Any) -> Address | None:
    """Of what a sentinel answers, `[host, port]`."""
    if not isinstance(reply, list | tuple) or len(reply) != 2:
        return None
    host = reply[0].decode() if isinstance(reply[0], bytes) else str(reply[0])
    return host, int(reply[1])
