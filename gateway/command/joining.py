"""`mlx-gateway join`, and what a Mac that joined does at each later start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.command.runfile import read_running
from gateway.command.sharing import DEFAULT_PORT
from gateway.door.bonjour import find_door
from gateway.door.code import parse_code
from gateway.door.folder import DoorFolder
from gateway.door.joiner import greet, is_unreachable, join_fleet, shows, this_installation
from shared.config import Settings
from shared.errors import ConfigError
from shared.keys import word
from shared.membership import HOST, Membership, read_membership, with_membership

_MOST_LETTERS = 63
_FIND_S = 4.0


@dataclass(frozen=True, slots=True)
class Member:
    """The settings and the name of a host, or a gateway, that joined."""

    settings: Settings
    name: str


def join(settings: Settings, address: str | None, code: str, name: str, role: str = HOST) -> Member:
    """Without an address, the Mac in this network that made the code. Raises `ConfigError`; nothing has changed
    then."""
    if read_running(settings.state_dir) is not None:
        raise ConfigError(
            f"`mlx-gateway up` runs on {settings.state_dir}: stop it first, since a Mac that joined serves through the "
            "gateway of the sharing one"
        )
    if DoorFolder(settings).is_shared:
        raise ConfigError(f"{settings.state_dir} shares a fleet of its own: give --state another folder to join one")
    parsed = parse_code(code)
    if address is None:
        door = find_door(lambda found: shows(found.address, found.port, parsed), wait_s=_FIND_S)
        host, port = door.address, door.port
    else:
        host, port = _address(address)
    found = join_fleet(settings.state_dir, host, port, parsed, _short(name), this_installation(), role=role)
    return _member(settings, found)


def rejoin(settings: Settings, name: str | None, say: Callable[[str], None], role: str = HOST) -> Member | None:
    """The host, or the gateway, that this Mac joined as; None when it has not joined. Where the door
    is away, it starts all the same and waits for it. Raises `ConfigError` with the door's words when this host or its
    version fits no more."""
    membership = read_membership(settings.state_dir)
    if membership is None:
        return None
    if membership.role != role:
        raise ConfigError(f"this Mac joined as a {membership.role}: `mlx-gateway {membership.role}` starts it")
    if name is not None and word(name) != membership.host:
        raise ConfigError(f"this Mac joined as {membership.host!r}: to change its --name, revoke it and join again")
    try:
        membership = greet(settings.state_dir, membership, this_installation())
    except ConfigError as error:
        if not is_unreachable(error):
            raise
        say(f"the sharing Mac is away; waiting for it: {error.message}")
    return _member(settings, membership)


def check_alone(settings: Settings) -> None:
    """Raises `ConfigError` for an `up` on a Mac that joined."""
    membership = read_membership(settings.state_dir)
    if membership is not None:
        raise ConfigError(
            f"this Mac joined the fleet at {membership.address}: `mlx-gateway {membership.role}` serves there, and "
            "`mlx-gateway up --alone` serves this Mac by itself meanwhile"
        )


def _member(settings: Settings, membership: Membership) -> Member:
    return Member(with_membership(settings, membership), membership.host)


def _short(name: str) -> str:
    """A name of this Mac as a host's: without what a network hangs on to it."""
    return word(name.partition(".")[0])[:_MOST_LETTERS]


def _address(text: str) -> tuple[str, int]:
    """`NAME`, `NAME:PORT`, an address, `[v6]:PORT`. Raises `ConfigError`."""
    host, separator, port = text.rpartition(":")
    if text.count(":") > 1 and not text.startswith("["):
        host, separator, port = "", "", text
    if not separator:
        return text.strip("[]"), DEFAULT_PORT
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{text!r} is no address: give the sharing Mac's name, or NAME:PORT")
    return host.strip("[]"), int(port)
