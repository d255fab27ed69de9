"""A proxy between a process and Redis, on unix sockets, that can do to what passes whatever a network does.

It cuts, freezes, delays; and it drops and doubles what Redis says to subscribers, message by message, which takes it to
know where each reply ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 16
_NESTED = b"*~>"
_PAIRS = b"%|"


def reply_end(data: bytes, start: int = 0) -> int | None:
    """Where the reply that begins at `start` ends, in either version of Redis's protocol; None while a part of it is
    missing."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, at = data[start : start + 1], line_end + 2
    if kind in b"$=!":
        length = int(data[start + 1 : line_end])
        end = at if length < 0 else at + length + 2
        return end if end <= len(data) else None
    if kind not in _NESTED + _PAIRS:
        return at
    for _ in range(max(0, int(data[start + 1 : line_end])) * (2 if kind in _PAIRS else 1)):
        end_or_none = reply_end(data, at)
        if end_or_none is None:
            return None
        at = end_or_none
    return at


def is_message(reply: bytes) -> bool:
    """Whether it is what somebody published."""
    return reply[:1] in (b"*", b">") and reply[4:15] == b"$7\r\nmessage"


@dataclass
class Weather:
    """What befalls everything that passes. `lose` and `double` count messages to subscribers."""

    delay_s: float = 0.0
    lose: int = 0
    double: int = 0
    thawed: asyncio.Event = field(default_factory=asyncio.Event)


class _Replies:
    """Cuts a stream of replies into replies."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, data: bytes) -> list[bytes]:
        self._rest += data
        found, start = [], 0
        while start < len(self._rest) and (end := reply_end(self._rest, start)) is not None:
            found.append(self._rest[start:end])
            start = end
        self._rest = self._rest[start:]
        return found


class ChaosProxy:
    """Listens on `path`, hands everything on to the socket at `target`. All methods may be called from any thread."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._weather = Weather()
        self._weather.thawed.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break every connection. New ones are taken."""
        self._call(lambda: [writer.transport.abort() for writer in tuple(self._writers)])

    def freeze(self) -> None:
        """Nothing passes, and nobody is told: a cable that was pulled."""
        self._call(self._weather.thawed.clear)

    def thaw(self) -> None:
        self._call(self._weather.thawed.set)

    def delay(self, seconds: float) -> None:
        """All that passes, in either direction."""
        self._call(lambda: setattr(self._weather, "delay_s", seconds))

    def lose_and_double(self, messages: int) -> None:
        """Lose the next messages to subscribers, then say as many twice."""

        def change() -> None:
            self._weather.lose = self._weather.double = messages

        self._call(change)

    def _call(self, change: Callable[[], object]) -> None:
        async def run() -> None:
            change()

        self._do(run())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _close(self) -> None:
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._weather.thawed.wait()
        try:
            back, forth = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, forth}
        self._writers |= pair
        try:
            pumps = [
                asyncio.create_task(self._pump(reader, forth)),
                asyncio.create_task(self._pump(back, writer, True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_back: bool = False) -> None:
        """Until either side ends. What is delayed keeps its order."""
        passing: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
        replies = _Replies()
        sending = asyncio.create_task(self._send(passing, writer))
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(_CHUNK_BYTES):
                    pieces = self._mangled(replies.cut(data)) if is_back else [data]
                    await passing.put((self._loop.time() + self._weather.delay_s, b"".join(pieces)))
        finally:
            sending.cancel()

    def _mangled(self, replies: list[bytes]) -> list[bytes]:
        weather, found = self._weather, []
        for reply in replies:
            if (weather.lose or weather.double) and is_message(reply):
                if weather.lose:
                    weather.lose -= 1
                    continue
                weather.double -= 1
                found.append(reply)
            found.append(reply)
        return found

    async def _send(self, passing: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await passing.get()
                await asyncio.sleep(max(0.0, due_s - self._loop.time()))
                await self._weather.thawed.wait()
                writer.write(data)
                await writer.drain()
