"""Topics that consoles listen to: each is looked at a few times a second while somebody does, and what changed is
encoded once for all who listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.admin.merging import merge_patch
from gateway.dispatch.tasks import cancel_all
from shared.errors import RateLimitedError

logger = logging.getLogger(__name__)

LIVE_S: Final = 0.25  # four patches a second
SLOW_S: Final = 1.0
_MOST_PENDING_BYTES: Final = 4 * 1024 * 1024
_MOST_OF_A_KEY: Final = 64  # consoles; a browser has one for all of its tabs
_RETRY_S: Final = 5
_NOTHING: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """`render` gives the state, an object without nulls; `stamp` is cheap, and unchanged while the state is.
    `is_private`: administrators' alone."""

    name: str
    stamp: Callable[[], object]
    render: Callable[[], Awaitable[Mapping[str, Any]]]
    every_s: float = LIVE_S
    is_private: bool = False


class Listener:
    """What one console has not read yet. One that falls far behind `is_lost`: it gets nothing more, and must ask
    again."""

    def __init__(self, whose: str = "") -> None:
        self.whose = whose
        self.is_lost = False
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._news = asyncio.Event()

    def put(self, message: bytes) -> None:
        self._pending_bytes += len(message)
        if self._pending and self._pending_bytes > _MOST_PENDING_BYTES:
            self.lose()
        if not self.is_lost:
            self._pending.append(message)
            self._news.set()

    def lose(self) -> None:
        self.is_lost = True
        self._pending.clear()
        self._news.set()

    async def take(self, timeout_s: float) -> bytes:
        """Everything since the last call; empty after the time, or once lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()
        taken, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        return taken


class Feed:
    """One topic. Numbers go on while nobody listens, so that a patch never fits an older snapshot."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self._stamp: object = _NOTHING
        self._state: Mapping[str, Any] | None = None
        self._snapshot = (-1, b"")  # of which number
        self._has_failed = False

    def add(self, listener: Listener) -> None:
        self._listeners.add(listener)
        if self._state is not None:
            listener.put(self._whole())
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def remove(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners and self._task is not None:
            self._task.cancel()
            self._task, self._state, self._stamp = None, None, _NOTHING

    async def aclose(self) -> None:
        if self._task is not None:
            await cancel_all([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
                self._has_failed = False
            except Exception as error:  # one screen that fails must not take the others along
                if not self._has_failed:
                    logger.exception("the topic %s could not be looked at", self.topic.name)
                    self._say("failed", {"topic": self.topic.name, "error": str(error) or type(error).__name__})
                self._has_failed = True
            await asyncio.sleep(self.topic.every_s)

    async def _look(self) -> None:
        stamp = self.topic.stamp()
        if self._state is not None and stamp == self._stamp:
            return
        state = await self.topic.render()
        before, self._state, self._stamp = self._state, state, stamp
        if before is None:
            self._number += 1
            for listener in self._listeners:
                listener.put(self._whole())
        elif patch := merge_patch(before, state):
            self._number += 1
            self._say("patch", {"topic": self.topic.name, "number": self._number, "patch": patch})

    def _say(self, event: str, data: Mapping[str, Any]) -> None:
        message = encode_event(event, data)
        for listener in self._listeners:
            listener.put(message)

    def _whole(self) -> bytes:
        """Encoded once for each number."""
        number, snapshot = self._snapshot
        if number != self._number:
            told = {"topic": self.topic.name, "number": self._number, "state": self._state}
            snapshot = encode_event("snapshot", told)
            self._snapshot = self._number, snapshot
        return snapshot


class Feeds:
    """All topics of a gateway."""

    def __init__(self, topics: Sequence[Topic]) -> None:
        self.topics: Mapping[str, Topic] = {topic.name: topic for topic in topics}
        self._feeds = {topic.name: Feed(topic) for topic in topics}
        self._listeners: set[Listener] = set()

    @contextlib.contextmanager
    def listening(self, names: Sequence[str], *, whose: str = "") -> Iterator[Listener]:
        """`whose` is the name of the key, of which only so many may listen at once: each may hold some MB for one that
        reads slowly. Raises `RateLimitedError`."""
        if sum(each.whose == whose for each in self._listeners) >= _MOST_OF_A_KEY:
            raise RateLimitedError(f"{_MOST_OF_A_KEY} consoles of this key listen already", retry_after_s=_RETRY_S)
        listener = Listener(whose)
        self._listeners.add(listener)
        try:
            for name in names:
                self._feeds[name].add(listener)
            yield listener
        finally:
            self._listeners.discard(listener)
            for name in names:
                self._feeds[name].remove(listener)

    def end(self) -> None:
        """The process stops: who listens asks another."""
        for listener in list(self._listeners):
            listener.lose()

    async def aclose(self) -> None:
        for feed in self._feeds.values():
            await feed.aclose()


def encode_event(event: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))
