"""Kept files on their way from host to host through the door, which opens nothing at the lender: a lender holds a
connection on which it hears that somebody wants to read, and comes for each with another (`shared.cache_door`).

The door knows who lends and who reads, by their certificates; whether somebody may read is between the two. Hosts of
the sharing Mac itself come through a unix socket that only its user can open.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.door.connections import Connections
from gateway.door.splice import Ends, splice
from shared.cache_door import ALIVE_S, MAX_LINE_BYTES, SOCKET_NOTE, decode_words, encode_words
from shared.config import service_folder
from shared.errors import WireError
from shared.private_files import short_private_folder, write_private

_MOST_READERS, _MOST_OF_ONE = 64, 8  # at once, of all hosts and of one that joined
_FIRST_S = 10.0  # for what somebody has come for
_TAKE_S = 5.0  # for a lender to come for its reader


@dataclass(slots=True)
class _Waiting:
    """A reader whose lender was told of it."""

    lender: str
    taken: asyncio.Future[Ends]
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class CacheWays:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._lenders: dict[str, asyncio.StreamWriter] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._readers: Counter[str] = Counter()  # by host
        self._connections = Connections()  # of this Mac

    @contextlib.asynccontextmanager
    async def open_here(self, folder: Path) -> AsyncIterator[None]:
        """For the hosts of this Mac: `folder` comes to say where."""
        home = short_private_folder(service_folder())
        note, path = folder / SOCKET_NOTE, home / "caches.sock"
        try:
            server = await asyncio.start_unix_server(self._serve_here, path, limit=MAX_LINE_BYTES)
            path.chmod(0o600)
            write_private(note, str(path).encode())
            async with server:
                try:
                    yield
                finally:  # before the server's own end, which waits for its connections from Python 3.12 on
                    await self._connections.hang_up()
        finally:
            note.unlink(missing_ok=True)
            shutil.rmtree(home, ignore_errors=True)

    async def _serve_here(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._connections.serve(writer, self.meet("", reader, writer))

    async def meet(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A whole connection, until it is needed no more. `host` is whose it is, empty for any of this Mac. Raises
        `OSError` and `TimeoutError`."""
        try:
            async with asyncio.timeout(_FIRST_S):
                words = decode_words(await reader.readline())
        except (WireError, ValueError):  # the latter for a line beyond the limit
            words = {}
        match words:
            case {"lend": str(name)} if name and host in ("", name):
                await self._lend(name, reader, writer)
            case {"take": str(code)} if self._is_for(host, code):
                await self._take(self._waiting.pop(code), (reader, writer))
            case {"read": str(name)}:
                await self._read(host, name, (reader, writer))
            case _:
                await _say(writer, refused="that is nothing for you")

    def _is_for(self, host: str, code: str) -> bool:
        waiting = self._waiting.get(code)
        return waiting is not None and host in ("", waiting.lender)

    async def _lend(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The latest connection of a name is the one that counts."""
        self._lenders[name] = writer
        leaving = asyncio.ensure_future(reader.read(1))  # a lender says nothing more
        try:
            await _say(writer, lending=True)
            while not (await asyncio.wait([leaving], timeout=ALIVE_S))[0]:
                await _say(writer, alive=True)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            if self._lenders.get(name) is writer:
                del self._lenders[name]

    async def _read(self, host: str, lender: str, here: Ends) -> None:
        told = self._lenders.get(lender)
        is_full = self._readers.total() >= _MOST_READERS or (bool(host) and self._readers[host] >= _MOST_OF_ONE)
        if told is None or is_full:
            await _say(here[1], refused="it lends nothing here" if told is None else "too many read at once")
            return
        code, waiting = secrets.token_hex(16), _Waiting(lender, asyncio.get_running_loop().create_future())
        self._waiting[code] = waiting
        self._readers[host] += 1
        try:
            await _say(told, reader=code)
            async with asyncio.timeout(_TAKE_S):
                there = await waiting.taken
            await _say(here[1], taken=True)
            await splice(here, there)
        except TimeoutError:
            await _say(here[1], refused="it did not come in time")
        finally:
            self._readers[host] -= 1
            self._waiting.pop(code, None)
            waiting.is_over.set()

    async def _take(self, waiting: _Waiting, there: Ends) -> None:
        if not waiting.taken.done():
            waiting.taken.set_result(there)
            await waiting.is_over.wait()


async def _say(writer: asyncio.StreamWriter, **words: str | bool) -> None:
    writer.write(encode_words(**words))
    await writer.drain()
