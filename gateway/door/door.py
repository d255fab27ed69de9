"""One TLS listener for joining, Redis and caches, in front of any Redis.

What a connection is for is said by ALPN: `mlxgw-join`, also for who has no certificate; with a certificate of a host
that joined, `mlxgw-cache`, or nothing: the bytes of Redis. Certificates count while the list of hosts names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from pathlib import Path
from typing import Any, cast

from gateway.door.caches import CacheWays
from gateway.door.connections import Connections
from gateway.door.crowd import Crowd
from gateway.door.entrance import Entrance
from gateway.door.folder import DoorFolder, JoinedHost
from gateway.door.joining import Joining
from gateway.door.messages import MAX_LINE_BYTES
from gateway.door.splice import splice
from gateway.door.upstream import Upstream
from gateway.door.users import HostUsers
from shared.cache_door import CACHE
from shared.errors import ConfigError, GatewayError
from shared.membership import LOCKED_OUT

logger = logging.getLogger(__name__)

JOIN = "mlxgw-join"
_JOINING_S = 30.0
_MOST_JOINERS = 32  # at once: they have shown nothing yet
_LOOK_S = 0.25
_BACKLOG = 256


class Door:
    """Belongs to one event loop."""

    def __init__(self, folder: DoorFolder, joining: Joining, users: HostUsers, upstream: Upstream) -> None:
        self._folder = folder
        self._joining = joining
        self._users = users
        self._upstream = upstream
        self._caches = CacheWays()
        self._joiners = Crowd(_MOST_JOINERS)
        self._hosts: dict[str, JoinedHost] = {}
        self._stamp: tuple[int, ...] | None = None
        self._open: dict[str, set[asyncio.StreamWriter]] = {}  # of hosts
        self._connections = Connections()

    async def serve(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        """Until cancelled."""
        self._look()
        entrance = Entrance(context, self._serve, line_bytes=MAX_LINE_BYTES)
        async with self._caches.open_here(self._folder.path):
            entering = asyncio.create_task(entrance.run(listener))
            try:
                await self._watch()
            finally:
                entering.cancel()
                await self._connections.hang_up()
                await asyncio.gather(entering, return_exceptions=True)

    async def _watch(self) -> None:
        """Who is revoked is thrown out, and in a new life of Redis its users are made. Until cancelled, which is looked
        for: redis-py swallows a cancellation that meets it at the wrong moment."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        while not task.cancelling():
            self._look()
            with contextlib.suppress(GatewayError):
                await self._users.ensure()
            if not task.cancelling():
                await asyncio.sleep(_LOOK_S)
        raise asyncio.CancelledError

    def _look(self) -> None:
        """Read the list of hosts again when it has changed."""
        stamp = self._folder.stamp()
        if stamp == self._stamp:
            return
        try:
            self._hosts = self._folder.hosts()
        except ConfigError as error:
            logger.error("%s", error)  # noqa: TRY400 - the text says it all
            return
        self._stamp = stamp
        self._users.forget()
        for name, writers in self._open.items():
            if not self._counts(name):
                logger.warning("%s was revoked: %d connections are closed", name, len(writers))
                for writer in writers:
                    writer.transport.abort()

    def _counts(self, name: str) -> bool:
        host = self._hosts.get(name)
        return host is not None and not host.is_revoked

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._connections.serve(writer, self._admit(reader, writer))

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._look()
        tls: Any = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert()
        host = self._host_of(certificate) if certificate else None
        protocol = tls.selected_alpn_protocol()
        if protocol == JOIN and (host is not None or not certificate):
            with self._joiners.one():
                async with asyncio.timeout(_JOINING_S):
                    await self._joining.meet(reader, writer, host)
                    await writer.drain()
        elif host is None:
            await self._turn_away(protocol, bool(certificate), writer)
        else:
            await self._admit_host(host.name, protocol, reader, writer)

    def _host_of(self, certificate: dict[str, Any]) -> JoinedHost | None:
        """The host whose certificate this is; None where it is not the one that counts."""
        names = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
        host = self._hosts.get(names[0]) if names else None
        is_listed = host is not None and not host.is_revoked and host.serial == certificate["serialNumber"]
        return host if is_listed else None

    async def _turn_away(self, protocol: str | None, has_certificate: bool, writer: asyncio.StreamWriter) -> None:
        reason = "this host was revoked, or joined again elsewhere" if has_certificate else "join this fleet first"
        if protocol == JOIN:
            writer.write(b'{"refused": "%s"}\n' % reason.encode())
        elif protocol is None:
            writer.write(f"-NOPERM {LOCKED_OUT} {reason}\r\n".encode())
        await writer.drain()

    async def _admit_host(
        self, name: str, protocol: str | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers = self._open.setdefault(name, set())
        writers.add(writer)
        try:
            if protocol == CACHE:
                await self._caches.meet(name, reader, writer)
            else:
                await self._lead_to_redis(reader, writer)
        finally:
            writers.discard(writer)

    async def _lead_to_redis(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The connection is made before its life of Redis is looked at: no user of an earlier life is let into it."""
        their_reader, their_writer = await self._upstream.connect()
        try:
            await self._users.ensure()
            await splice((reader, writer), (their_reader, their_writer))
        except GatewayError as error:
            writer.write(f"-ERR mlx-gateway: {error.message}\r\n".encode())
        finally:
            their_writer.transport.abort()


def server_context(certificate: Path, hosts_ca: str) -> ssl.SSLContext:
    """Asks for certificates, and takes none that another authority signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    context.load_verify_locations(cadata=hosts_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols([JOIN, CACHE])
    return context


def listen(address: str, port: int) -> socket.socket:
    """On all addresses of this Mac when `address` is empty. Raises `ConfigError`."""
    is_dual = not address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual or ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, dualstack_ipv6=is_dual, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"the door cannot listen on port {port} ({error.strerror}): stop the program that uses it, or set "
            "MLX_GATEWAY_DOOR_PORT to another (Macs that joined must join again then)"
        ) from error
