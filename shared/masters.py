"""Connections to the master that the sentinels name.

They are asked before each connection is made, so that whoever connects again after a fail-over is led to the new
master. A server that became a replica drops its clients, or refuses what they write: such a connection ends. One that
hangs does neither; so the sentinels are asked each second, too, and what leads elsewhere than they say twice in a row
is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
import weakref
from typing import Any, Protocol

from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import parse_url as parse_async_url
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from shared.sentinel import Address, Sentinels, parsed

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


def connection_arguments(url: str) -> dict[str, Any]:
    """Those of a pool whose connections lead to the master. Raises `ValueError`."""
    sentinels, plain = parsed(url)
    arguments: dict[str, Any] = dict(parse_url(plain))  # type: ignore[no-untyped-call]
    is_tls = arguments.pop("connection_class", Connection) is SSLConnection
    return arguments | {"connection_class": MasterSSLConnection if is_tls else MasterConnection, "sentinels": sentinels}


def async_connection_arguments(url: str) -> dict[str, Any]:
    """The same for an asyncio pool."""
    sentinels, plain = parsed(url)
    arguments: dict[str, Any] = dict(parse_async_url(plain))
    is_tls = arguments.pop("connection_class", AsyncConnection) is AsyncSSLConnection
    cls = AsyncMasterSSLConnection if is_tls else AsyncMasterConnection
    return arguments | {"connection_class": cls, "sentinels": sentinels}


class _Cuttable(Protocol):
    """A connection that any thread may break off."""

    def address(self) -> Address: ...
    def cut(self) -> None: ...


class _Watch:
    """A thread that looks whether the master is still the one that connections lead to, while there are any."""

    def __init__(self, sentinels: Sentinels) -> None:
        self._sentinels = sentinels
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, connection: _Cuttable) -> None:
        with self._lock:
            self._connections.add(connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sentinels", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        last: Address | None = None
        while True:
            time.sleep(_LOOK_EVERY_S)
            with self._lock:
                connections: list[_Cuttable] = list(self._connections)
                if not connections:
                    self._thread = None
                    return
            try:
                now = self._sentinels.master()
            except RedisConnectionError:
                continue  # who connects hears of it
            if now == last:
                _cut(connections, now)
            last = now


def _cut(connections: list[_Cuttable], master: Address) -> None:
    """Those that lead elsewhere."""
    stale = [each for each in connections if each.address() not in (master, _NOWHERE)]
    if stale:
        log.warning("the master is %s:%d now: %d connections to another are cut", *master, len(stale))
    for each in stale:
        each.cut()


_NOWHERE: Address = ("", 0)
_watches: dict[tuple[tuple[Address, ...], str], _Watch] = {}
_watches_lock = threading.Lock()


def _watch(sentinels: Sentinels) -> _Watch:
    """One for all connections of this process to a service."""
    with _watches_lock:
        return _watches.setdefault((sentinels.addresses, sentinels.service), _Watch(sentinels))


class MasterConnection(Connection):
    """To the server that is the master when it is made."""

    def __init__(self, *, sentinels: Sentinels, **arguments: Any) -> None:
        super().__init__(**arguments)  # type: ignore[no-untyped-call]
        self._sentinels = sentinels

    def _connect(self) -> Any:
        self.host, self.port = self._sentinels.master()
        found = super()._connect()  # type: ignore[no-untyped-call]
        _watch(self._sentinels).add(self)
        return found

    def address(self) -> Address:
        """Where it leads now."""
        return _NOWHERE if self._sock is None else (self.host, self.port)

    def cut(self) -> None:
        """Whoever reads finds its end."""
        found: socket.socket | None = self._sock
        if found is not None:
            with contextlib.suppress(OSError):  # it ends by itself just now
                found.shutdown(socket.SHUT_RDWR)

    def read_response(self, *arguments: Any, **named: Any) -> Any:
        try:
            return super().read_response(*arguments, **named)
        except ReadOnlyError as error:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise RedisConnectionError("the server is not the master any more") from error


class MasterSSLConnection(MasterConnection, SSLConnection):
    pass


class AsyncMasterConnection(AsyncConnection):
    """To the server that is the master when it is made."""

    def __init__(self, *, sentinels: Sentinels, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.master_async()
        await super()._connect()  # type: ignore[no-untyped-call]
        self._loop = asyncio.get_running_loop()
        _watch(self._sentinels).add(self)

    def address(self) -> Address:
        """Where it leads now."""
        return (self.host, self.port) if self.is_connected else _NOWHERE

    def cut(self) -> None:
        """Whoever reads finds its end."""
        writer = self._writer
        if writer is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(writer.transport.abort)

    async def read_response(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await super().read_response(*arguments, **named)
        except ReadOnlyError as error:
            await self.disconnect()
            raise RedisConnectionError("the server is not the master any more") from error


class AsyncMasterSSLConnection(AsyncMasterConnection, AsyncSSLConnection):
    pass
