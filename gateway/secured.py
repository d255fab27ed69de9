"""The gateway's second listener: the same application over HTTPS, once this Mac is shared."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.door.folder import DoorFolder, OpenHttps
from gateway.door.web import ensure_web_certificate, reached_as
from gateway.door.whereabouts import local_name
from shared.beats import until_beat_s
from shared.config import Settings, environment_name
from shared.errors import ConfigError
from shared.hosts import is_loopback_address

logger = logging.getLogger(__name__)

_LOOK_S: Final = 2.0  # whether this Mac is shared
_RENEW_S: Final = 300.0  # whether the certificate still fits: a Mac changes networks
_HANDSHAKE_S: Final = 10.0
_BACKLOG: Final = 2048


def listen_https(settings: Settings) -> socket.socket:
    """Raises `ConfigError`."""
    host, port = settings.https_host, settings.https_port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"no HTTPS: cannot listen on {host}:{port} ({error.strerror}); stop the program that uses it, or set "
            f"{environment_name('https_port')} to another"
        ) from error


def https_url(settings: Settings, port: int) -> str:
    """By the name that its certificate has for whoever reaches it."""
    host = settings.https_host
    if host == "localhost" or is_loopback_address(host):
        host = "localhost"
    elif host in ("0.0.0.0", "::"):
        host = local_name().lower()
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


class HttpsListener:
    """Belongs to one event loop. `given` is a listening socket that outlives this process."""

    def __init__(self, settings: Settings, given: socket.socket | None = None, *, renew_s: float = _RENEW_S) -> None:
        self._settings = settings
        self._folder = DoorFolder(settings)
        self._given = given
        self._renew_s = renew_s
        self._task: asyncio.Task[None] | None = None

    def start(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep(protocol), name="https")

    async def close(self) -> None:
        """No more connections; those that are open go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Until cancelled. What does not work is said in the log: the gateway serves all the same without."""
        while not self._folder.is_shared:  # noqa: ASYNC110 - another process shares
            await asyncio.sleep(until_beat_s(_LOOK_S))
        try:
            await self._serve(protocol)
        except ConfigError as error:
            logger.error("%s", error)  # noqa: TRY400 - the text says it all
        except OSError as error:
            logger.error("no HTTPS: %s", error)  # noqa: TRY400 - the text says it all

    async def _serve(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        certificate = await asyncio.to_thread(self._certificate)
        context = web_context(certificate)
        listener = self._given or listen_https(self._settings)
        url = await asyncio.to_thread(https_url, self._settings, listener.getsockname()[1])
        server = await asyncio.get_running_loop().create_server(
            protocol, sock=listener, ssl=context, ssl_handshake_timeout=_HANDSHAKE_S, backlog=_BACKLOG
        )
        note = self._folder.note_https(OpenHttps(pid=os.getpid(), url=url))
        logger.info("running on %s", url)
        try:
            await self._keep_renewed(context, certificate)
        finally:
            server.close()
            note.unlink(missing_ok=True)

    async def _keep_renewed(self, context: ssl.SSLContext, certificate: Path) -> None:
        """Whoever connects from then on sees the new one. Until cancelled."""
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                await asyncio.to_thread(self._certificate)
                context.load_cert_chain(certificate)
            except (ConfigError, OSError) as error:
                logger.warning("the certificate of HTTPS stays as it is: %s", error)

    def _certificate(self) -> Path:
        return ensure_web_certificate(self._folder.path, reached_as(self._settings.https_host))


def web_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["http/1.1"])
    return context
