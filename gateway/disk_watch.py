"""Looks whether the state folder can be written, and says so once: usage, batches and traces wait for room there."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from shared.beats import until_beat_s
from shared.disk import write_trouble

logger = logging.getLogger(__name__)

EVERY_S = 10.0


class DiskWatch:
    """`trouble` is why nothing can be written; empty while something can."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trouble = ""

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(until_beat_s(EVERY_S))

    async def look(self) -> None:
        trouble = await asyncio.to_thread(write_trouble, self._folder)
        if trouble and not self.trouble:
            logger.error("%s: usage waits in memory, files and batches are refused, traces are lost", trouble)
        elif self.trouble and not trouble:
            logger.info("%s can be written again", self._folder)
        self.trouble = trouble
