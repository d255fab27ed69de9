"""Keys made and revoked, for the command line and the console alike."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from gateway.keys.file import KeyFile
from gateway.keys.holder import MOST_COUNTED, Quota, Role
from gateway.keys.record import KeyRecord, check_name, digest_of, make_key, shown_of
from shared.durations import parse_keep_alive
from shared.errors import ConfigError
from shared.request import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a key shall be. `expires` is a duration such as 12h or 30d, empty for never; without `tenant` its own."""

    name: str
    role: Role = "user"
    tenant: str = ""
    models: Sequence[str] = ()
    ceiling: Priority = "interactive"
    quota: Quota = field(default_factory=Quota)
    expires: str = ""


def new_key(wish: Wish, *, now_s: float) -> tuple[str, KeyRecord]:
    """A key and its record. Raises `ConfigError`."""
    _check_quota(wish.quota)
    key = make_key()
    return key, KeyRecord(
        name=check_name(wish.name),
        digest=digest_of(key.encode()),
        shown=shown_of(key),
        created_s=now_s,
        role=wish.role,
        tenant=check_name(wish.tenant) if wish.tenant else "",
        models=tuple(filter(None, (pattern.strip() for pattern in wish.models))),
        ceiling=wish.ceiling,
        quota=wish.quota,
        expires_s=now_s + _lifetime_s(wish.expires) if wish.expires else None,
    )


def _check_quota(quota: Quota) -> None:
    for each in fields(quota):
        most, option = getattr(quota, each.name), f"--{each.name.replace('_', '-')}"
        if most < 0:
            raise ConfigError(f"{option} must not be negative")
        if most > MOST_COUNTED:
            raise ConfigError(
                f"{option} must not be above {MOST_COUNTED}: no further is exactly counted; 0 is no limit"
            )


def _lifetime_s(text: str) -> float:
    found = parse_keep_alive(text)
    if found is None or not 0 < found < math.inf:
        raise ConfigError(f"it cannot expire after {text!r}: expected a duration such as 12h or 30d")
    return found


def add_key(file: KeyFile, wish: Wish) -> tuple[str, KeyRecord]:
    """The key, for the only time that it is seen, and its record. Raises `ConfigError`."""
    key, record = new_key(wish, now_s=time.time())
    with file.changing() as records:
        if any(other.name == record.name and other.state(time.time()) == "valid" for other in records):
            raise ConfigError(f"there is a key {record.name!r} already: revoke it first, or take another name")
        records.append(record)
    return key, record


def revoke_key(file: KeyFile, name: str) -> str:
    """Why there was none to revoke; empty where it is done. Raises `ConfigError`."""
    now_s = time.time()
    with file.changing() as records:
        found = [index for index, each in enumerate(records) if each.name == name and each.revoked_s is None]
        for index in found:
            records[index] = replace(records[index], revoked_s=now_s)
        is_known = any(each.name == name for each in records)
    if found:
        return ""
    return f"the key {name!r} is revoked already" if is_known else f"there is no key {name!r}"
