"""A key as it is kept: its digest, never itself, and what its holder may."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from gateway.keys.holder import ROLES, Holder, Quota, Role
from shared.errors import ConfigError
from shared.request import PRIORITIES, Priority

_BEGINNING: Final = "mlxgw-"
_SECRET_BYTES: Final = 24
_SHOWN: Final = len(_BEGINNING) + 4
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """`digest` is the SHA-256 of the key, in hexadecimal: a key is made of 192 random bits, so that nothing slower is
    needed. `shown` is how it begins. Times in seconds since 1970; None: it never expires, was not revoked."""

    name: str
    digest: str
    shown: str
    created_s: float
    role: Role = "user"
    tenant: str = ""
    models: tuple[str, ...] = ()
    ceiling: Priority = "interactive"
    quota: Quota = field(default_factory=Quota)
    expires_s: float | None = None
    revoked_s: float | None = None

    def state(self, now_s: float) -> str:
        """`valid`, `revoked` or `expired`."""
        if self.revoked_s is not None:
            return "revoked"
        return "expired" if self.expires_s is not None and self.expires_s <= now_s else "valid"

    @property
    def holder(self) -> Holder:
        return Holder(
            name=self.name,
            role=self.role,
            tenant=self.tenant or self.name,
            models=self.models,
            ceiling=self.ceiling,
            quota=self.quota,
        )


def make_key() -> str:
    return _BEGINNING + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def shown_of(key: str) -> str:
    return key[:_SHOWN]


def check_name(name: str) -> str:
    """Raises `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a key: up to 40 letters, digits, '.', '_' and '-'")
    return name


def encode_record(record: KeyRecord) -> dict[str, Any]:
    """JSON; what is as usual is left out."""
    usual = asdict(KeyRecord(name="", digest="", shown="", created_s=0.0))
    return {name: value for name, value in asdict(record).items() if value != usual[name]}


def decode_record(value: Any) -> KeyRecord:
    """Raises `ConfigError`."""
    if not isinstance(value, Mapping):
        raise ConfigError("a key must be an object")
    try:
        quota = Quota(**{name: int(most) for name, most in value.get("quota", {}).items()})
        known = {**value, "models": tuple(value.get("models", ())), "quota": quota}
        record = KeyRecord(**known)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"a key that cannot be read: {error}") from error
    if record.role not in ROLES or record.ceiling not in PRIORITIES:
        raise ConfigError(f"the key {record.name!r} has an unknown role or class")
    wrong = next(_wrong_fields(record, value), "")
    if wrong:
        raise ConfigError(f"the key {record.name!r} has a `{wrong}` that cannot be")
    return record


def _wrong_fields(record: KeyRecord, value: Mapping[str, Any]) -> Iterator[str]:
    """Of a file that a person edited: each must be known before a request is checked by it."""
    texts = {name: getattr(record, name) for name in ("name", "digest", "shown", "tenant")}
    yield from (name for name, text in texts.items() if not isinstance(text, str))
    yield from (name for name in ("name", "tenant") if texts[name] and not _NAME.fullmatch(texts[name]))
    if not record.name:  # who has none is the owner
        yield "name"
    if isinstance(value.get("models"), str) or not all(isinstance(each, str) for each in record.models):
        yield "models"
    if any(most < 0 for most in asdict(record.quota).values()):
        yield "quota"
    for name in ("created_s", "expires_s", "revoked_s"):
        time_s = getattr(record, name)
        if not (isinstance(time_s, int | float) or (time_s is None and name != "created_s")):
            yield name
