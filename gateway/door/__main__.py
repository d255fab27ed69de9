"""The door as a process of its own: `python -m gateway.door`, started by `up`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import sys
from typing import cast

import redis.asyncio

from gateway.door.authority import load_authority, write_door_certificate
from gateway.door.bonjour import announced
from gateway.door.door import Door, listen, server_context
from gateway.door.entrance import raise_file_limit
from gateway.door.folder import DoorFolder, OpenDoor
from gateway.door.joining import Joining
from gateway.door.upstream import parse_upstream
from gateway.door.users import HostUsers
from gateway.door.whereabouts import local_name
from shared.config import Settings, load_secret, load_settings
from shared.connections import build_async_redis
from shared.errors import BrokerUnavailableError, ConfigError
from shared.keys import Names
from shared.log import set_up_logging
from shared.seal import Keyring
from shared.wire import WIRE_VERSION

logger = logging.getLogger(__name__)

_EXIT_CONFIG = 2


def build_door(settings: Settings, broker: redis.asyncio.Redis) -> tuple[Door, DoorFolder]:
    """The door of the settings, in front of their Redis. Raises `ConfigError`."""
    folder, names, secret = DoorFolder(settings), Names(settings.deployment), load_secret(settings)
    folder.make()
    upstream = parse_upstream(settings.redis_url)
    users = HostUsers(broker, names, Keyring(secret), folder)

    async def live_names() -> set[str]:
        """Of hosts whose record has not ended."""
        try:
            members = [name.decode(errors="replace") for name in cast(set[bytes], await broker.smembers(names.hosts))]
            found = await broker.mget([names.host(name) for name in members]) if members else []
        except (redis.RedisError, OSError) as error:
            raise BrokerUnavailableError(f"Redis cannot be reached: {error}") from error
        return {name for name, record in zip(members, found, strict=True) if record is not None}

    joining = Joining(
        folder,
        users,
        door=load_authority(folder.path, "door"),
        hosts=load_authority(folder.path, "hosts"),
        secret=secret,
        deployment=settings.deployment,
        database=upstream.database,
        version=importlib.metadata.version("mlx-gateway"),
        wire=WIRE_VERSION,
        live_names=live_names,
    )
    return Door(folder, joining, users, upstream), folder


async def _run(settings: Settings) -> None:
    broker = build_async_redis(settings)
    door, folder = build_door(settings, broker)
    certificate = write_door_certificate(folder.path, load_authority(folder.path, "door"))
    context = server_context(certificate, load_authority(folder.path, "hosts").pem)
    with listen(settings.door_listen, settings.door_port) as listener:
        port = cast(int, listener.getsockname()[1])
        serving = asyncio.create_task(door.serve(listener, context))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        note = folder.note_door(OpenDoor(pid=os.getpid(), port=port))
        logger.info("the door is open on port %d", port)
        addresses = [settings.door_listen] if settings.door_listen else []
        try:
            async with announced(local_name().removesuffix(".local"), port, addresses):
                with contextlib.suppress(asyncio.CancelledError):
                    await serving
        finally:
            note.unlink(missing_ok=True)
            await broker.aclose()


def main() -> int:
    try:
        settings = load_settings()
        raise_file_limit()
        set_up_logging(settings, process="door")
        asyncio.run(_run(settings))
    except ConfigError as error:
        sys.stderr.write(f"mlx-gateway door: {error}\n")
        return _EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
