"""Whether the server behind a model answers: by what its requests meet, and by asking it where there are none."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from shared.errors import GatewayError
from shared.http_client import AskError

EVERY_S: Final = 30.0


class Presence:
    """Belongs to one event loop; `is_up` may be read by any thread. `find` raises when the server or its model is not
    there."""

    def __init__(self, find: Callable[[], Awaitable[None]], *, every_s: float = EVERY_S) -> None:
        self.is_up = False
        self._find = find
        self._every_s = every_s
        self._noted_s = 0.0
        self._asking = 0
        self._watching: asyncio.Task[None] | None = None

    def note(self, is_up: bool) -> None:
        self.is_up, self._noted_s = is_up, time.monotonic()

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """While a request asks it: nobody else looks then, and a connection that breaks tells that it is gone."""
        self._asking += 1
        try:
            yield
            self.note(True)
        except AskError:
            self.note(False)
            raise
        finally:
            self._asking -= 1

    @property
    def is_asked(self) -> bool:
        return self._asking > 0

    def start(self) -> None:
        """Look for it from now on."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="presence")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if self._asking == 0 and time.monotonic() - self._noted_s >= self._every_s:
                await self._look()

    async def _look(self) -> None:
        try:
            await self._find()
        except (GatewayError, AskError):
            self.note(False)
        else:
            self.note(True)
