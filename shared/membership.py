"""What a Mac that joined a fleet keeps of it, `<state>/fleet/`: whom it trusts, who it is there, and its own keys.

A host holds no secret of the deployment: it knows what is its own. A gateway does, since it speaks with all hosts.
"""

from __future__ import annotations

import ssl
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from shared.config import Settings
from shared.errors import ConfigError
from shared.private_files import private_folder, write_private

HOST, GATEWAY = "host", "gateway"  # what a Mac joins as
LOCKED_OUT = "mlx-gateway:"  # begins what the door says in Redis's place to who is no member any more
_FILE = "member.json"
_CERTIFICATE, _KEY, _DOOR_CA, _HOSTS_CA = "host.pem", "host.key", "door-ca.pem", "hosts-ca.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """`host` is the word of this Mac's host, or of its gateway (`role`), which knows the deployment's `secret`; `key`
    is its key and `anyone` the one for what any host may take, both in hexadecimal. The door is at `address` and
    `port`. The rest are PEM texts: `certificate` and `private_key` are this host's, `door_ca` signs for the door,
    `hosts_ca` for hosts."""

    address: str
    port: int
    host: str
    generation: int
    key: str = field(repr=False)
    anyone: str = field(repr=False)
    deployment: str
    database: int
    user: str
    password: str = field(repr=False)
    certificate: str
    private_key: str = field(repr=False)
    door_ca: str
    hosts_ca: str
    role: str = HOST
    secret: str = field(default="", repr=False)


_TEXTS = {"certificate": _CERTIFICATE, "private_key": _KEY, "door_ca": _DOOR_CA, "hosts_ca": _HOSTS_CA}


def folder_of(state_dir: Path) -> Path:
    return state_dir / "fleet"


def read_membership(state_dir: Path) -> Membership | None:
    """None when this Mac has not joined. Raises `ConfigError` for files that cannot be read."""
    folder = folder_of(state_dir)
    try:
        data: dict[str, Any] = orjson.loads((folder / _FILE).read_bytes())
        texts: dict[str, Any] = {name: (folder / file).read_text() for name, file in _TEXTS.items()}
        return Membership(**data, **texts)
    except FileNotFoundError as error:
        if not (folder / _FILE).exists():
            return None
        raise ConfigError(f"{error.filename} is gone: join the fleet again") from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"what {folder} says of the fleet cannot be read ({error}): join again") from error


def write_membership(state_dir: Path, membership: Membership) -> None:
    """Its owner's alone; the file that says so comes last. Raises `ConfigError`."""
    folder = private_folder(folder_of(state_dir))
    data = asdict(membership)
    try:
        for name, file in _TEXTS.items():
            write_private(folder / file, data.pop(name).encode())
        write_private(folder / _FILE, orjson.dumps(data, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error


def with_membership(settings: Settings, membership: Membership) -> Settings:
    """The settings of a host of that fleet, or of a gateway."""
    if membership.role == GATEWAY:
        return replace(
            settings,
            redis_url=redis_url_of(membership, folder_of(settings.state_dir)),
            deployment=membership.deployment,
            secret=membership.secret,
        )
    return replace(
        settings,
        redis_url=redis_url_of(membership, folder_of(settings.state_dir)),
        deployment=membership.deployment,
        host_key=f"{membership.generation}:{membership.key}:{membership.anyone}",
    )


def redis_url_of(membership: Membership, folder: Path) -> str:
    """Through the door. Whoever the door's authority signed for is the door, whatever its name or address."""
    address = f"[{membership.address}]" if ":" in membership.address else membership.address
    user, password = quote(membership.user, safe=""), quote(membership.password, safe="")
    files = {"ssl_ca_certs": _DOOR_CA, "ssl_certfile": _CERTIFICATE, "ssl_keyfile": _KEY}
    query = urlencode({name: str(folder / file) for name, file in files.items()} | {"ssl_check_hostname": "false"})
    return f"rediss://{user}:{password}@{address}:{membership.port}/{membership.database}?{query}"


def door_context(state_dir: Path, membership: Membership, protocol: str) -> ssl.SSLContext:
    """Of a host that joined, on its way to the door: it trusts the door's authority alone, under any name. Raises
    `OSError` when its certificate cannot be read."""
    context = ssl.create_default_context(cadata=membership.door_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # whoever the door's authority signed for is the door
    context.load_cert_chain(folder_of(state_dir) / _CERTIFICATE, folder_of(state_dir) / _KEY)
    context.set_alpn_protocols([protocol])
    return context
