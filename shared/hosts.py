"""Names of hosts as they stand in `Host` and `Origin` headers and in settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

# RFC 3986, 3.2.2 and 3.2.3, without user information, which no such header may hold.
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Host and port of a URL. `name` is in lower case, without brackets and without the dot that may end it."""

    name: str
    port: int | None = None


def parse_authority(text: str) -> Authority | None:
    """`name`, `name:port`, `[::1]:port`, …; None for what is none of these."""
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None:
        return None
    name = match["ipv6"] or match["name"].removesuffix(".")
    return Authority(name=name, port=int(match["port"]) if match["port"] else None) if name else None


def is_loopback(name: str) -> bool:
    """Whether a name (as in `Authority`) can mean nothing but the machine that uses it: a loopback address, and
    `localhost` with all names below it, which RFC 6761 keeps out of the DNS."""
    return (
        name == "localhost" or (name.endswith(".localhost") and not name.startswith(".")) or is_loopback_address(name)
    )


def is_loopback_address(text: str) -> bool:
    """Of 127.0.0.0/8, or ::1."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def matches(name: str, pattern: str) -> bool:
    """Whether an allowed host, `name`, `*.name` (all names below it) or `*`, is this one."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return pattern in ("*", name)


def parse_host_pattern(text: str) -> str | None:
    """An allowed host in the form that `matches` takes; None for what is none, which a port makes it, too."""
    if text == "*":
        return text
    wildcard = "*." if text.startswith("*.") else ""
    authority = parse_authority(text.removeprefix(wildcard))
    return None if authority is None or authority.port is not None else wildcard + authority.name


def parse_origin_pattern(text: str) -> str | None:
    """An allowed origin, `scheme://host:port` with `*` for any part of it, `null` or `*`, in lower case; None for what
    is none, which a path makes it."""
    lowered = text.lower().removesuffix("/")
    scheme, separator, rest = lowered.partition("://")
    if lowered in ("*", "null"):
        return lowered
    return lowered if scheme and separator and rest and "/" not in rest else None
