"""`/openapi.json`, and `/docs`, which shows it."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from typing import Final

import orjson
from starlette.types import Receive, Scope, Send

from gateway.http.docs_page import PAGE
from gateway.http.openapi import build_document
from gateway.http.replies import send_reply


class OpenAPI:
    """An ASGI application."""

    def __init__(self) -> None:
        self._document = orjson.dumps(build_document(version("mlx-gateway")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(send, 200, self._document)


class DocsPage:
    """An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(send, 200, PAGE.encode(), media_type=b"text/html; charset=utf-8", headers=_POLICY)


def _digest_of(element: str) -> str:
    """Of the page's one script or style, which alone may run and be applied (CSP 3, 2.3.1)."""
    inner = PAGE.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"


_POLICY: Final = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_digest_of('script')}; style-src {_digest_of('style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}
