"""Which hosts and pages a request may come by. A page in a browser is not a client of its own right.

Without a key, whoever reaches the gateway may use it, and a browser reaches it for any page: by a name of the page's
own that is made to point here (DNS rebinding), or straight, with a body of a type that needs no leave. So the name in
`Host` must be this machine's or one that the settings allow, and the page in `Origin`, which browsers add to all but
their plainest requests and programs leave out, must be local or allowed. With a key, the key says who may come in, by
whatever name; pages of others stay out all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared.config import Settings, environment_name
from shared.errors import InvalidRequestError, PermissionDeniedError
from shared.hosts import Authority, is_loopback, matches, parse_authority

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_ORIGINS = ("javascript", "data", "blob", "vbscript")  # schemes without an origin of their own (HTML, 7.1.1)
_SHOWN = 100  # characters of what a client sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitors:
    """Patterns as in `Settings`. `any_host`: a key says who may come in."""

    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    any_host: bool = False

    @classmethod
    def of(cls, settings: Settings, *, has_keys: bool = False) -> Visitors:
        return cls(
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=[_normal(origin) for origin in settings.allowed_origins],
            any_host=bool(settings.api_key) or has_keys,
        )

    def check_host(self, hosts: Sequence[str], *, http_version: str) -> None:
        """`hosts`: all `Host` headers. Raises `InvalidRequestError` unless there is one (HTTP/1.0 may do without, which
        no browser speaks), `PermissionDeniedError` when it names another host than those that are served."""
        if len(hosts) > 1 or (not hosts and http_version != "1.0"):
            raise InvalidRequestError("a request needs one Host header")  # RFC 9112, 3.2
        if hosts and not self.admits_host(hosts[0]):
            raise PermissionDeniedError(
                f"the host {hosts[0][:_SHOWN]!r} is not served here; if it is yours, add its name to "
                f"{environment_name('allowed_hosts')}"
            )

    def admits_host(self, host: str) -> bool:
        if self.any_host:
            return True
        authority = parse_authority(host)
        if authority is None:
            return False
        return is_loopback(authority.name) or any(matches(authority.name, each) for each in self.allowed_hosts)

    def check_origin(self, origins: Sequence[str], host: str) -> None:
        """`origins`: all `Origin` headers. Raises `PermissionDeniedError`, and `InvalidRequestError` for more than one,
        which no browser sends (RFC 6454, 7.3)."""
        for origin in origins:
            if not self.admits_origin(origin, host):
                raise PermissionDeniedError(
                    f"pages of the origin {origin[:_SHOWN]!r} may not use this gateway; if it is yours, add it to "
                    f"{environment_name('allowed_origins')}"
                )
        if len(origins) > 1:
            raise InvalidRequestError("a request has one Origin header at most")

    def may_read(self, origins: Sequence[str], hosts: Sequence[str]) -> bool:
        """Whether the page of a request, of whose headers these are all, may read what is answered."""
        if len(origins) != 1 or len(hosts) > 1:
            return False
        host = hosts[0] if hosts else ""
        return self.admits_host(host) and self.admits_origin(origins[0], host)

    def admits_origin(self, origin: str, host: str) -> bool:
        """Whether the page lies on this machine, came by the same `host` as the request, or is allowed."""
        normal = _normal(origin)
        if any(_is_like(normal, pattern) for pattern in self.allowed_origins):
            return True
        authority = _authority_of(normal)
        return authority is not None and (is_loopback(authority.name) or authority == _with_port(normal, host))


def is_same_page(origin: str, host: str) -> bool:
    """Whether a page of this origin came by the same `host` as the request; a scheme may differ."""
    authority = _authority_of(_normal(origin))
    return authority is not None and authority == _with_port(_normal(origin), host)


def _normal(origin: str) -> str:
    """In lower case, without a default port or a slash at the end, as browsers write it (RFC 6454, 6.2)."""
    text = origin.lower().removesuffix("/")
    port = _DEFAULT_PORTS.get(text.partition("://")[0])
    return text if port is None else text.removesuffix(f":{port}")


def _authority_of(origin: str) -> Authority | None:
    """None for `null`, which any page can have itself called, and for what is no origin."""
    scheme, separator, rest = origin.partition("://")
    return parse_authority(rest) if scheme and separator and scheme not in _NO_ORIGINS else None


def _with_port(origin: str, host: str) -> Authority | None:
    """The host of a request as the origin of its page would say it. A proxy that ends TLS may have changed scheme."""
    return _authority_of(_normal(f"{origin.partition('://')[0]}://{host}"))


def _is_like(origin: str, pattern: str) -> bool:
    """`*` stands for anything without a slash."""
    return pattern == "*" or re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]*"), origin) is not None
