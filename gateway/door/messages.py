"""What joiner and door say to each other: one JSON object a line, the door first.

    door:   greeting   its authority's certificate, by which the joiner knows it; versions
    joiner: ask        the code's secret, a name, versions, a certificate request
    door:   grant      certificate, keys and Redis user; or why not: {"refused": "…"}
    joiner: stored     only now is the host a member and the code used
    door:   welcome

A host that joined greets with its certificate instead of a secret (`Hello`), at each start.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import orjson

from shared.errors import WireError
from shared.membership import HOST

PROTOCOL = 1
MAX_LINE_BYTES = 32 * 1024
STORED = {"stored": True}
WELCOME = {"welcome": True}

_M = TypeVar("_M", "Greeting", "Ask", "Hello", "Grant", "Renewal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    protocol: int
    version: str
    wire: list[int]
    door_ca: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    secret: str = field(repr=False)
    name: str
    version: str
    wire: list[int]
    request: str
    role: str = HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """`request` is empty while the certificate lasts."""

    version: str
    wire: list[int]
    request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`key` is the host's own, `anyone` the one for what any host may take, both in hexadecimal. `secret` is the
    deployment's, for a gateway; a host is given none."""

    host: str
    generation: int
    key: str = field(repr=False)
    anyone: str = field(repr=False)
    deployment: str
    database: int
    user: str
    password: str = field(repr=False)
    certificate: str
    hosts_ca: str
    role: str = HOST
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """`certificate` is empty when none was asked for."""

    certificate: str = ""


class Refused(Exception):
    """The other side says why not, in words for a person."""


def encode_line(message: object) -> bytes:
    return orjson.dumps(message if isinstance(message, dict) else asdict(message)) + b"\n"  # type: ignore[call-overload]


def decode_line(line: bytes) -> dict[str, Any]:
    """Raises `Refused` for a refusal, `WireError` for what is no message."""
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise WireError("what came is no message of mlx-gateway") from error
    if not isinstance(data, dict):
        raise WireError("what came is no message of mlx-gateway")
    if isinstance(data.get("refused"), str):
        raise Refused(data["refused"])
    return data


def read_message(data: dict[str, Any], cls: type[_M]) -> _M:
    """What a newer version added is left out. Raises `WireError`."""
    kinds = {"str": str, "int": int, "list[int]": list}
    given: dict[str, Any] = {}
    for each in fields(cls):
        if each.name not in data:
            continue
        value = data[each.name]
        if type(value) is not kinds[str(each.type)] or (type(value) is list and set(map(type, value)) - {int}):
            raise WireError(f"{cls.__name__} with a wrong {each.name}")
        given[each.name] = value
    try:
        return cls(**given)
    except TypeError as error:
        raise WireError(f"{cls.__name__} is not whole: {error}") from error
