"""What browsers ask before they let a page read an answer (CORS), for the pages that may come in."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.replies import header, header_values
from gateway.http.visitors import Visitors

_METHODS = b"GET, HEAD, POST, DELETE"
_PREFLIGHT_S = b"600"
_Headers = list[tuple[bytes, bytes]]


class CrossOrigin:
    """ASGI middleware around those that refuse, so that a page can read a refusal, too. Answers preflights, which never
    hold a key. Nothing here lets anybody in."""

    def __init__(self, app: ASGIApp, *, visitors: Visitors) -> None:
        self.app = app
        self._visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins, hosts = _texts(scope, b"origin"), _texts(scope, b"host")
        if not any(origins):
            await self.app(scope, receive, send)
            return
        readable = _readable_by(origins[0]) if self._visitors.may_read(origins, hosts) else [(b"vary", b"origin")]

        async def send_readable(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *readable]
            await send(message)

        if len(readable) > 1 and _is_preflight(scope):
            await _answer_preflight(scope, send_readable)
        else:
            await self.app(scope, receive, send_readable)


def _texts(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for value in header_values(scope, name)] if scope["type"] == "http" else []


def _readable_by(origin: str) -> _Headers:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"origin"),
    ]


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and bool(header(scope, b"access-control-request-method"))


async def _answer_preflight(scope: Scope, send: Send) -> None:
    headers: _Headers = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _PREFLIGHT_S)]
    asked = header(scope, b"access-control-request-headers")
    if asked:  # `*` would leave `authorization` out
        headers.append((b"access-control-allow-headers", asked.encode("latin-1")))
    if header(scope, b"access-control-request-private-network"):  # a public page that asks a private address
        headers.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
