"""`/openapi.json`, and `/docs`, which shows it."""

from __future__ import annotations

from importlib.metadata import version

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
        await send_reply(send, 200, PAGE.encode(), media_type=b"text/html; charset=utf-8")
