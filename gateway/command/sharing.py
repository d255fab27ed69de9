"""`mlx-gateway share`, `hosts` and `revoke`: who else may serve this Mac's models, as long as `up` runs here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping

from gateway.command.ends import not_running
from gateway.command.runfile import read_running
from gateway.door.admission import LIFE_S, TRIES
from gateway.door.authority import load_authority
from gateway.door.code import JoinCode, new_secret, print_of
from gateway.door.folder import DoorFolder, Invitation
from gateway.door.revoking import lock_out
from gateway.door.web import AUTHORITY_FILE
from gateway.door.whereabouts import local_name, own_address
from shared.config import Settings
from shared.connections import build_async_redis
from shared.errors import ConfigError
from shared.keys import word
from shared.log import last_lines
from shared.membership import GATEWAY, HOST

DEFAULT_PORT = Settings().door_port
_DOOR_S = 15.0
_HTTPS_S = 15.0
_POLL_S = 0.05


def open_code(settings: Settings, role: str = HOST) -> JoinCode:
    """A new code for one Mac of this role; the one before is worth nothing from now on. Raises `ConfigError`."""
    folder = DoorFolder(settings)
    folder.make()
    with folder.locked():
        load_authority(folder.path, "hosts")
        door = load_authority(folder.path, "door")
    secret = new_secret()
    with folder.locked():
        folder.invite(Invitation(secret=secret, ends_at_s=time.time() + LIFE_S, tries=TRIES, role=role))
    return JoinCode(print_of(door.der), secret)


def wait_for_door(settings: Settings) -> int:
    """Its port. Raises `ConfigError` with the door's last words when it does not open."""
    end_s = time.monotonic() + _DOOR_S
    while (door := DoorFolder(settings).door()) is None:
        if time.monotonic() > end_s:
            words = last_lines(settings.state_dir / "logs" / "door.log")
            raise ConfigError(f"the door does not open: {words or 'it says nothing of why'}")
        time.sleep(_POLL_S)
    return door.port


def https_lines(settings: Settings) -> tuple[str, str]:
    """Where the gateway is reached over HTTPS, and what a person should know of it. Raises `ConfigError`."""
    folder, end_s = DoorFolder(settings), time.monotonic() + _HTTPS_S
    while (https := folder.https()) is None:
        if time.monotonic() > end_s:
            words = last_lines(settings.state_dir / "logs" / "gateway.log")
            raise ConfigError(f"the gateway is not reached over HTTPS: {words or 'it says nothing of why'}")
        time.sleep(_POLL_S)
    authority = folder.path / AUTHORITY_FILE
    return f"https on {https.url}", f"browsers and clients that trust {authority} reach it there (docs/security.md)"


def share(settings: Settings, role: str = HOST) -> tuple[str, str]:
    """The line for the other Mac, and a hint for a person. Raises `ConfigError` when no `up` runs here."""
    if read_running(settings.state_dir) is None:
        raise not_running(
            f"nothing is running on {settings.state_dir}: `mlx-gateway up --share` starts it and makes a code"
        )
    code = open_code(settings, role)
    return join_lines(code, wait_for_door(settings), role)


def join_lines(code: JoinCode, port: int, role: str = HOST) -> tuple[str, str]:
    """What is typed on the other Mac, and what a person should know of it."""
    suffix = "" if port == DEFAULT_PORT else f":{port}"
    hint = f"type this on the other Mac within {LIFE_S / 60:.0f} minutes; it joins one Mac"
    address = own_address()
    if address:
        hint += f"; where the name is not found, {address}{suffix} is this Mac, too"
    if role == GATEWAY:
        hint += ". A gateway is told the secret of the whole fleet: that Mac reads all prompts and answers"
    return f"mlx-gateway join {local_name()}{suffix} {code}{' --gateway' if role == GATEWAY else ''}", hint


def host_lines(hosts: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """One line for each, for a person."""
    for host in hosts:
        story = (
            f"joined {host['joined']}, mlx-gateway {host['version']}" if host["joined"] else "did not join by a code"
        )
        yield f"{host['name']:24} {host['state']:8} {story}{', a gateway' if host.get('role') == GATEWAY else ''}"


def revoke(settings: Settings, name: str) -> str:
    """Lock a host out: its key, certificate and Redis user mean nothing from now on, its connections end, what it was
    asked is asked elsewhere. What was done, for a person. Raises `ConfigError`."""
    host = word(name)
    if not settings.redis_url:
        DoorFolder(settings).revoke(host)
        return f"{host} is locked out (nothing is running here)"

    async def lock() -> str:
        async with build_async_redis(settings) as broker:
            return await lock_out(settings, broker, host)

    return asyncio.run(lock())
