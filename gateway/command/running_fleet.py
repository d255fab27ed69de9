"""What runs, for the commands that look at it: the Redis of an `up`, and who is alive there."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.command.ends import not_running
from gateway.command.runfile import read_running
from gateway.dispatch.fleet import FleetWatcher
from shared.config import Settings, load_secret
from shared.connections import build_async_redis
from shared.errors import BrokerUnavailableError
from shared.keys import Names
from shared.registry import Fleet
from shared.seal import Keyring


def with_running_redis(settings: Settings) -> Settings:
    """With the Redis of the `up` that runs on this state folder, when none was given."""
    running = read_running(settings.state_dir)
    if settings.redis_url or running is None:
        return settings
    return replace(settings, redis_url=running.redis_url)


def need_redis(settings: Settings) -> Settings:
    """Raises `ConfigError` where none is known."""
    settings = with_running_redis(settings)
    if not settings.redis_url:
        raise not_running(
            f"nothing is running on {settings.state_dir}: start it with `mlx-gateway up`, give the --state it was "
            "started with, or set REDIS_URL"
        )
    return settings


def read_fleet(settings: Settings) -> Fleet:
    """Raises `ConfigError` where nothing answers."""
    settings = need_redis(settings)
    keyring = Keyring(load_secret(settings))

    async def read() -> Fleet:
        async with build_async_redis(settings) as broker:
            return await FleetWatcher(broker, Names(settings.deployment), keyring).refresh()

    try:
        return asyncio.run(read())
    except BrokerUnavailableError as error:
        raise not_running(error.message) from error
