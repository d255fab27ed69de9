"""A door in this process, on a thread of its own, in front of a real Redis; and a Mac that wants to join."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from gateway.door.__main__ import build_door
from gateway.door.authority import load_authority, write_door_certificate
from gateway.door.code import JoinCode, new_secret, print_of
from gateway.door.door import listen, server_context
from gateway.door.folder import DoorFolder, Invitation
from gateway.door.joiner import Myself, join_fleet
from shared.config import Settings
from shared.connections import build_async_redis, build_redis
from shared.membership import HOST, Membership, with_membership
from shared.redis_server import RedisServer
from shared.wire import WIRE_VERSION

MYSELF = Myself("0.1.0", (WIRE_VERSION,))
_START_S = 10.0


@dataclass
class OpenedDoor:
    """`settings` are those of the sharing Mac."""

    settings: Settings
    server: RedisServer
    folder: DoorFolder
    port: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    stop: Callable[[], object] = lambda: None

    def code(self, *, life_s: float = 600.0, role: str = HOST) -> JoinCode:
        secret = new_secret()
        self.folder.invite(Invitation(secret=secret, ends_at_s=time.time() + life_s, tries=3, role=role))
        return JoinCode(print_of(load_authority(self.folder.path, "door").der), secret)

    def join(
        self, state: Path, name: str, *, code: JoinCode | None = None, myself: Myself = MYSELF, role: str = HOST
    ) -> Membership:
        """Of a Mac with this state folder. Raises `ConfigError`."""
        return join_fleet(state, "127.0.0.1", self.port, code or self.code(role=role), name, myself, role=role)

    def operator(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url)


def member_redis(state: Path, membership: Membership) -> redis.Redis:
    """The client of a host that joined."""
    return build_redis(with_membership(Settings(state_dir=state), membership))


@contextlib.contextmanager
def opened_door(state: Path, server: RedisServer, **settings: object) -> Iterator[OpenedDoor]:
    """Until the block ends."""
    given = replace(Settings(state_dir=state, redis_url=server.url), **settings)  # type: ignore[arg-type]
    door = OpenedDoor(given, server, DoorFolder(given))
    thread = threading.Thread(target=lambda: asyncio.run(_run(door)), daemon=True)
    thread.start()
    assert door.started.wait(_START_S), "the door does not open"
    try:
        yield door
    finally:
        door.stop()
        thread.join(_START_S)
        assert not thread.is_alive()


async def _run(door: OpenedDoor) -> None:
    serving = asyncio.create_task(_serve(door))
    loop = asyncio.get_running_loop()
    door.stop = lambda: loop.call_soon_threadsafe(serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await asyncio.sleep(0.01)  # what was closed goes with the next turns of the loop


async def _serve(door: OpenedDoor) -> None:
    async with build_async_redis(door.settings) as broker:
        built, folder = build_door(door.settings, broker)
        certificate = write_door_certificate(folder.path, load_authority(folder.path, "door"))
        context = server_context(certificate, load_authority(folder.path, "hosts").pem)
        with listen("127.0.0.1", 0) as listener:
            door.port = listener.getsockname()[1]
            door.started.set()
            await built.serve(listener, context)
