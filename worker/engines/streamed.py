"""Engines that stream from elsewhere: one event loop, a task for each request, as many at once as there are places.

`StreamedEngine` makes an `Engine` of a `Source`: something that answers a request as a stream of outputs, such as a
server behind HTTP. It owns the loop and its thread. What the tasks say in one turn of the loop leaves together, so that
many streams are still one frame for each gateway, however their parts arrive.

All methods of a source but `prepare`, `count` and `stats` are called on the loop, and must not block it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from shared.errors import GatewayError, InternalError, WorkerLostError
from shared.events import Failed, Finished
from shared.grants import Grant
from shared.request import GenerateRequest, Resume
from worker.engines.base import Dated, EngineInfo, EngineStats, Outbox, Output, Prepared
from worker.engines.loop_end import settle

if TYPE_CHECKING:
    from worker.prompt.days import SharedDays

log = logging.getLogger(__name__)

_ALIVE_EVERY_S = 0.25


class EngineBrokenError(Exception):
    """Raised by a source that is of no use any more, for any request."""


class Source(Protocol):
    """What answers requests."""

    async def load(self, report: Callable[[float], None]) -> EngineInfo:
        """See `Engine.load`. `EngineInfo.capacity` is how many requests are asked of it at once."""

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        """See `Engine.prepare`."""

    def count(self, request: GenerateRequest) -> int | None:
        """See `Engine.count`."""

    def answer(self, prepared: Prepared) -> AsyncGenerator[Output, None]:
        """All outputs of one request. Cancelled where it waits when the request is. Raises `GatewayError` for what
        its client is told, and `EngineBrokenError`."""

    def stats(self) -> EngineStats:
        """See `Engine.stats`; `running` and `waiting` are filled in."""

    async def close(self) -> None:
        """Let go of everything. Also called when `load` failed."""


class StreamedEngine:
    """See the module's text and `worker.engines.base.Engine`. It cannot pause: what a server computes is the
    server's to keep."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = threading.Lock()  # held while the loop is spoken to, so that it is not closed meanwhile
        self._outbox: Outbox | None = None
        self._places = asyncio.Semaphore(1)
        self._capacity = 1
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = 0
        self._said: list[Output] = []  # in this turn of the loop
        self._ending: asyncio.Task[None] | None = None

    # -- from other threads ---------------------------------------------------------------------------------------

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="engine", daemon=True)
        self._thread.start()
        info = asyncio.run_coroutine_threadsafe(self.source.load(report), loop).result()
        self._capacity = max(1, info.capacity)
        self._places = asyncio.Semaphore(self._capacity)
        return replace(info, can_pause=False)

    def start(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._call(self._tick)

    def locate(self, request: GenerateRequest, grant: Grant) -> None:
        """It fetches nothing."""

    def share_days(self, days: SharedDays) -> None:
        if isinstance(self.source, Dated):
            self.source.share_days(days)

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        return self.source.prepare(request, resume)

    def count(self, request: GenerateRequest) -> int | None:
        return self.source.count(request)

    def submit(self, prepared: Prepared) -> None:
        self._call(self._begin, prepared)

    def pause(self, key: str) -> None:
        """Ignored, as the info says."""

    def cancel(self, key: str) -> None:
        self._call(self._forget, key)

    def stats(self) -> EngineStats:
        running = self._running
        return replace(self.source.stats(), running=running, waiting=max(0, len(self._tasks) - running))

    def unload(self, timeout_s: float) -> bool:
        thread = self._thread
        if thread is None:
            return True
        self._call(self._end)
        thread.join(timeout_s)
        return not thread.is_alive()

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """On the loop, unless it is over."""
        with self._gate:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            with self._gate:
                self._loop = None
            loop.close()

    def _tick(self) -> None:
        """The loop turns: that is a sign of life."""
        assert self._outbox is not None
        if self._tasks:
            self._outbox.alive()
        self._make_places(self.source.stats().capacity)
        asyncio.get_running_loop().call_later(_ALIVE_EVERY_S, self._tick)

    def _make_places(self, capacity: int) -> None:
        """Those that were found out after loading."""
        while self._capacity < capacity:
            self._places.release()
            self._capacity += 1

    def _begin(self, prepared: Prepared) -> None:
        self._tasks[prepared.key] = asyncio.get_running_loop().create_task(self._answer(prepared))

    def _forget(self, key: str) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
        self._said = [output for output in self._said if output.key != key]

    async def _answer(self, prepared: Prepared) -> None:
        """One request. Whatever happens, its last output ends it, unless it is cancelled."""
        key = prepared.key
        try:
            async with self._places:
                self._running += 1
                try:
                    await self._stream(prepared)
                finally:
                    self._running -= 1
        except asyncio.CancelledError:
            raise
        except EngineBrokenError as error:
            self._break(error)
        except GatewayError as error:
            self._say_failed(key, error)
        except BaseException as error:  # a bug that meets one request must not end the others
            log.exception("request %s: the answer broke off", key)
            self._say_failed(key, InternalError(f"the answer broke off: {type(error).__name__}"))
        finally:
            self._tasks.pop(key, None)

    async def _stream(self, prepared: Prepared) -> None:
        async with aclosing(self.source.answer(prepared)) as outputs:
            async for output in outputs:
                self._say(output)
                if output.events and isinstance(output.events[-1], Finished | Failed):
                    return
        raise WorkerLostError("the answer ended before it was whole")

    def _say_failed(self, key: str, error: GatewayError) -> None:
        self._say(Output(key=key, events=(Failed.of(error),)))

    def _say(self, output: Output) -> None:
        if not self._said:
            asyncio.get_running_loop().call_soon(self._flush)
        self._said.append(output)

    def _flush(self) -> None:
        """Everything said since the last turn of the loop, together."""
        said, self._said = self._said, []
        assert self._outbox is not None
        if not said:
            return
        try:
            self._outbox.emit(said)
        except BaseException as error:  # noqa: BLE001 - nobody can be told any more, so that the worker has to end
            self._break(error)

    def _break(self, error: BaseException) -> None:
        log.error("the engine broke", exc_info=error)
        assert self._outbox is not None
        self._outbox.broken(error)

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        if self._ending is None:
            self._ending = loop.create_task(self._close())

    async def _close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self.source.close()
            await settle()
        finally:
            asyncio.get_running_loop().stop()
