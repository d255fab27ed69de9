"""Who may use the gateway: while no key is set everyone on this machine but others' pages, else who knows the key."""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.replies import header_values
from gateway.http.routes import find_route
from gateway.http.visitors import Visitors
from shared.errors import AuthenticationError


class Authentication:
    """ASGI middleware. Accepts `Authorization: Bearer KEY` and `x-api-key: KEY`; raises `AuthenticationError`, and for
    hosts and pages that may not come in `InvalidRequestError` and `PermissionDeniedError`."""

    def __init__(self, app: ASGIApp, *, api_key: str, visitors: Visitors) -> None:
        self.app = app
        self._visitors = visitors
        self._digests = _digests(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._check(scope)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        hosts = [value.decode("latin-1") for value in header_values(scope, b"host")]
        self._visitors.check_host(hosts, http_version=scope.get("http_version", "1.1"))
        origins = [value.decode("latin-1") for value in header_values(scope, b"origin")]
        self._visitors.check_origin(origins, hosts[0] if hosts else "")
        if self._digests and not _is_open(scope) and not self._knows_key(scope):
            raise AuthenticationError("the API key is missing or wrong")

    def _knows_key(self, scope: Scope) -> bool:
        offered = list(header_values(scope, b"x-api-key"))
        for value in header_values(scope, b"authorization"):
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                offered.append(token.strip())
        found = [hmac.compare_digest(_digest(key), digest) for key in offered for digest in self._digests]
        return any(found)


def _is_open(scope: Scope) -> bool:
    route = find_route(scope["path"])
    return route is not None and scope.get("method") in route.keyless


def _digests(api_key: str) -> frozenset[bytes]:
    """Of the key's bytes as clients send them: in UTF-8 (curl), or in Latin-1 (`fetch`). Digests have one length, so
    that the comparison tells nothing about the key's."""
    spelled = {api_key.encode("utf-8", "surrogateescape")}
    if all(ord(character) < 0x100 for character in api_key):
        spelled.add(api_key.encode("latin-1"))
    return frozenset(_digest(key) for key in spelled) if api_key else frozenset()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
