"""Who may read here no more: which hosts' keys have had a new generation, as the door of the fleet tells each host.

Through the door nobody comes who was locked out. At an address that a person named somebody may, with leave that he was
given before; so whoever lends at one looks each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import redis.asyncio
from redis.exceptions import NoPermissionError, RedisError

from shared import wire
from shared.beats import until_beat_s
from shared.config import Settings, load_secret
from shared.errors import WireError
from shared.keys import Names
from shared.seal import HostKey, Keyring, Purpose, Seal

logger = logging.getLogger(__name__)

EVERY_S = 1.0


def where_told(settings: Settings, key: HostKey) -> tuple[str, Seal]:
    """The name in Redis under which the host with this key is told of generations, and how that is sealed: for itself,
    or, where it knows the deployment's secret, as all gateways are. Raises `ConfigError`."""
    names = Names(settings.deployment)
    if settings.host_key:
        return names.generations_for(key.host), key.seal(Purpose.GENERATIONS, key.host)
    return names.generations, Keyring(load_secret(settings)).gateways.seal(Purpose.GENERATIONS)


class Revocations:
    """`learn` is given the generation of each host whose key is not its first, whenever that was told."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        settings: Settings,
        key: HostKey,
        learn: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._redis = client
        self._is_needed = bool(settings.cache_listen)
        self._key, self._seal = where_told(settings, key)
        self._learn = learn
        self._last: bytes | None = None

    async def follow(self, stopping: asyncio.Event) -> None:
        """Until then."""
        if not self._is_needed:
            await stopping.wait()
        while not stopping.is_set():
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(EVERY_S)):
                    await stopping.wait()

    async def look(self) -> None:
        """Once. A fleet without a door tells nobody anything, and revokes nobody."""
        try:
            data = await self._redis.get(self._key)
        except NoPermissionError:  # of a door, or of a list of users, that is older
            return
        except (RedisError, OSError):  # which the host's own sign of life tells of
            return
        if not isinstance(data, bytes) or data == self._last:
            return
        self._last = data
        try:
            told: Any = wire.decode(self._seal.open(data))
        except WireError as error:
            logger.warning("whose leave to read is over cannot be understood: %s", error)
            return
        if isinstance(told, dict):
            self._learn({host: n for host, n in told.items() if isinstance(host, str) and isinstance(n, int)})
