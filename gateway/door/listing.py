"""The hosts of a fleet, as they are told to a person."""

from __future__ import annotations

import time
from collections.abc import Collection

from gateway.door.folder import DoorFolder, JoinedHost
from shared.config import Settings
from shared.membership import HOST


def list_hosts(settings: Settings, living: Collection[str]) -> list[dict[str, str]]:
    """Every host that joined here, and each other one that lives; `living` are words of names."""
    joined = DoorFolder(settings).hosts()
    others = [
        {"name": name, "state": "lives", "joined": "", "version": "", "role": HOST}
        for name in sorted({*living} - joined.keys())
    ]
    return others + [_listed(host, name in living) for name, host in sorted(joined.items())]


def _listed(host: JoinedHost, lives: bool) -> dict[str, str]:
    return {
        "name": host.name,
        "state": "revoked" if host.is_revoked else "lives" if lives else "away" if host.role == HOST else "joined",
        "joined": time.strftime("%Y-%m-%d", time.localtime(host.joined_at_s)),
        "version": host.version,
        "role": host.role,
    }
