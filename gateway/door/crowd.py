"""How many strangers a door has to do with at once: who has shown nothing yet holds no place that others need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import cast


class Crowd:
    """At most `most` tasks at once; one that comes beyond that takes the place of the one that has been there longest,
    which is cancelled: who means it is through in a moment, who says nothing stays. Belongs to one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: dict[asyncio.Task[None], None] = {}

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """For the current task, while the block lasts."""
        if len(self._tasks) >= self._most:
            longest = next(iter(self._tasks))
            del self._tasks[longest]
            longest.cancel()
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks[task] = None
        try:
            yield
        finally:
            self._tasks.pop(task, None)
