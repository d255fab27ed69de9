"""Where the door leads: the Redis of the settings, as a connection of bytes."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Upstream:
    """A unix socket when `path` is given, else host and port. `database` is what clients select there."""

    path: str = ""
    host: str = ""
    port: int = 6379
    is_tls: bool = False
    database: int = 0

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises `OSError`."""
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        context = ssl.create_default_context() if self.is_tls else None
        return await asyncio.open_connection(self.host, self.port, ssl=context)


def parse_upstream(url: str) -> Upstream:
    """Raises `ConfigError`."""
    address = urlsplit(url)
    asked = parse_qs(address.query).get("db", [""])[0]
    database = asked or address.path.strip("/") if address.scheme != "unix" else asked
    number = int(database) if database.isdigit() else 0
    if address.scheme == "unix":
        return Upstream(path=address.path, database=number)
    if address.scheme in ("redis", "rediss") and address.hostname:
        is_tls = address.scheme == "rediss"
        return Upstream(host=address.hostname, port=address.port or 6379, is_tls=is_tls, database=number)
    raise ConfigError("REDIS_URL: the door leads to unix://, redis:// and rediss:// addresses, and to no sentinels")
