"""Who may use the gateway: everyone on loopback while no key is set, else who knows the key."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import AuthenticationError

_OPEN_PATHS = ("/health", "/ready")


class Authentication:
    """ASGI middleware. Accepts `Authorization: Bearer KEY` and `x-api-key: KEY`; raises `AuthenticationError`."""

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self.app = app
        # Digests have one length, so that the comparison tells nothing about the key's.
        self._digest = _digest(api_key) if api_key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._digest and scope["type"] == "http" and not _is_open(scope) and not self._knows_key(scope):
            raise AuthenticationError("the API key is missing or wrong")
        await self.app(scope, receive, send)

    def _knows_key(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = [token.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]
        return any(hmac.compare_digest(_digest(key), self._digest) for key in offered)


def _is_open(scope: Scope) -> bool:
    return scope["method"] == "HEAD" or scope["path"] in _OPEN_PATHS


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
