"""Takes connections and shakes hands in TLS, beside strangers who say nothing.

asyncio's own server begins as many handshakes as there are descriptors: a thousand connections on which nothing is said
lock everybody out. Here handshakes are a crowd (`crowd`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable

from gateway.door.crowd import Crowd

logger = logging.getLogger(__name__)

_MOST_HANDSHAKES = 64
_HANDSHAKE_S = 10.0
_REST_S = 0.1  # when there is no descriptor for another
_WANTED_FILES = 4096

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Entrance:
    """`serve` is awaited for each connection whose handshake is done, in a task of its own. A line that is read there
    has `line_bytes` at most. Belongs to one event loop."""

    def __init__(self, context: ssl.SSLContext, serve: Serve, *, line_bytes: int) -> None:
        self._context = context
        self._serve = serve
        self._line_bytes = line_bytes
        self._handshakes = Crowd(_MOST_HANDSHAKES)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Until cancelled: then those that shake hands are hung up."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    logger.warning("somebody could not be let in: %s", error)
                    await asyncio.sleep(_REST_S)
                    continue
                task = loop.create_task(self._meet(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(0)  # a connection that is there already is taken without a turn of the loop
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _meet(self, connection: socket.socket) -> None:
        with contextlib.closing(connection):  # which a transport that was made of it does not mind
            try:
                with self._handshakes.one():
                    reader, writer = await self._shake(connection)
            except (OSError, asyncio.CancelledError) as error:
                logger.debug("nobody came in: %s", error or "others did")
                return
            await self._serve(reader, writer)

    async def _shake(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises `OSError`, of which `ssl.SSLError` is one."""
        loop = asyncio.get_running_loop()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader(limit=self._line_bytes, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=_HANDSHAKE_S
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def raise_file_limit() -> None:
    """As far as this process may: macOS gives 256 descriptors to who does not ask."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
