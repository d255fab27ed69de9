"""Who may use the gateway: while there is no key everyone on this machine but others' pages, else who knows one."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.replies import header_values
from gateway.http.routes import find_route
from gateway.http.visitors import Visitors
from gateway.keys.file import KeyFile
from gateway.keys.holder import OWNER, Holder
from gateway.keys.record import digest_of
from shared.errors import AuthenticationError


class Authentication:
    """ASGI middleware. Accepts `Authorization: Bearer KEY` and `x-api-key: KEY`; raises `AuthenticationError`, for
    hosts and pages that may not come in `InvalidRequestError` and `PermissionDeniedError`, and the latter for what the
    key's role may not. Who holds the key is noted in the scope's state."""

    def __init__(self, app: ASGIApp, *, api_key: str, visitors: Visitors, keys: KeyFile) -> None:
        self.app = app
        self._visitors = visitors
        self._digests = _digests(api_key)
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._check(scope)
        await self.app(scope, receive, _with_rate_headers(scope, send))

    def _check(self, scope: Scope) -> None:
        hosts = [value.decode("latin-1") for value in header_values(scope, b"host")]
        self._visitors.check_host(hosts, http_version=scope.get("http_version", "1.1"))
        origins = [value.decode("latin-1") for value in header_values(scope, b"origin")]
        self._visitors.check_origin(origins, hosts[0] if hosts else "")
        if _is_open(scope) or not (self._digests or self._keys.has_keys):
            return
        holder = self._holder(_offered(scope))
        scope.setdefault("state", {})["holder"] = holder
        route = find_route(scope["path"])
        if route is not None:
            holder.check_work(route.work)

    def _holder(self, offered: Sequence[bytes]) -> Holder:
        """Raises `AuthenticationError`."""
        found = [hmac.compare_digest(_digest(key), digest) for key in offered for digest in self._digests]
        if any(found):
            return OWNER
        known = [record for key in offered if (record := self._keys.find(digest_of(key))) is not None]
        for record in known:
            state = record.state(time.time())
            if state == "valid":
                return record.holder
        if known:
            raise AuthenticationError(f"the API key {known[0].name!r} is {known[0].state(time.time())}")
        raise AuthenticationError("the API key is missing or wrong")


def _with_rate_headers(scope: Scope, send: Send) -> Send:
    """What is left of the key's quota, as whoever admitted the request noted it."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            found = scope.get("state", {}).get("rate_headers", {})
            more = [(name.encode(), text.encode()) for name, text in found.items()]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return sending


def _offered(scope: Scope) -> Sequence[bytes]:
    offered = list(header_values(scope, b"x-api-key"))
    for value in header_values(scope, b"authorization"):
        scheme, _, token = value.partition(b" ")
        if scheme.lower() == b"bearer":
            offered.append(token.strip())
    return offered


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
