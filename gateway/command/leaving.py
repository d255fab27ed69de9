"""`mlx-gateway host --drain`: this Mac leaves the fleet, before it sleeps or is updated, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.dispatch.asking import asking_redis
from shared import wire
from shared.config import Settings
from shared.connections import build_async_redis
from shared.errors import ConfigError
from shared.keys import Names, word
from shared.registry import HostRecord
from shared.seal import Purpose, host_keys

_LOOK_S = 0.25
_RESTING = ("available", "unloaded", "failed", "no_memory")


async def drain_host(settings: Settings, name: str, *, say: Callable[[str], None]) -> None:
    """Until the host has left; `say` tells how that goes. No key but the host's own is needed. Raises `ConfigError`
    where no such host is there, and `BrokerUnavailableError`."""
    names, about = Names(settings.deployment), word(name)
    key = host_keys(settings, about).own
    told = ""
    async with build_async_redis(settings) as broker:
        order = key.seal(Purpose.ORDERS, about).close(wire.encode(["drain"]))
        async with asking_redis(f"{name} could not be told to leave"):
            if not await broker.publish(names.host_channel(about), order):
                raise ConfigError(f"no host is called {name!r} here")
            while isinstance(data := await broker.get(names.host(about)), bytes):
                shown = _describe(wire.decode(key.seal(Purpose.HOST, about).open(data)), name)
                if shown != told:
                    say(shown)
                told = shown
                await asyncio.sleep(_LOOK_S)


def _describe(record: HostRecord, name: str) -> str:
    if any(model.state not in _RESTING for model in record.models):
        return f"{name} finishes what runs"
    return f"{name} lends what its conversations have kept, for a minute at most"
