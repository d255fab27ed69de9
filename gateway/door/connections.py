"""Connections that are served until they end by themselves or are all hung up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import cast

logger = logging.getLogger(__name__)

_GOODBYE_S = 2.0


class Connections:
    """Belongs to one event loop. Each is served in the task that asyncio's server made for it."""

    def __init__(self) -> None:
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, writer: asyncio.StreamWriter, talking: Awaitable[None]) -> None:
        """Until `talking` ends, for which the other side may leave."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._serving.add(task)
        try:
            await talking
            writer.close()
            async with asyncio.timeout(_GOODBYE_S):
                await writer.wait_closed()
        except asyncio.CancelledError:  # which asyncio would tell of as of a fault
            logger.debug("a connection ends with the door")
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            logger.debug("a connection ended: %s", error)
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def hang_up(self) -> None:
        """All of them."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
