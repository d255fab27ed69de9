"""A client of the gateway's own: its body is there, and it stays until it is cancelled."""

from __future__ import annotations

import asyncio

from starlette.types import Message


class StayingClient:
    """The receiving side of an ASGI application that this gateway asks itself."""

    def __init__(self, body: bytes) -> None:
        self._requests: list[Message] = [{"type": "http.request", "body": body}]

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await asyncio.Event().wait()
        raise AssertionError("it stays until it is cancelled")
