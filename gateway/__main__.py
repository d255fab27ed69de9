"""One gateway process: `python -m gateway`, configured by its environment."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import math
import signal
import socket
import sys
from types import FrameType

import uvicorn

from gateway.app import GatewayApp, create_app, drain_s
from gateway.http.protocol import BoundedHttp
from gateway.secured import HttpsListener
from shared.beats import until_beat_s
from shared.config import Settings, load_settings
from shared.errors import ConfigError
from shared.log import set_up_logging
from shared.service import tell_ready

logger = logging.getLogger(__name__)

_LAST_WORDS_S = 3
_TICK_S = 1.0  # between two dates of answers
_TICKS = 10  # which uvicorn counts in tenths


class GatewayServer(uvicorn.Server):
    """Tells the application that the process stops while its streams still run."""

    def __init__(self, config: uvicorn.Config, app: GatewayApp, https: HttpsListener) -> None:
        super().__init__(config)
        self._app = app
        self._https = https
        self._exiting = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        app.request_exit = self._request_exit

    @property
    def has_failed(self) -> bool:
        """Whether it ended, or never began, because of an error."""
        return self._app.has_failed or not self.started

    def _request_exit(self) -> None:
        self.should_exit = True
        self._exiting.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:  # a signal's handler alone wakes no loop
            self._loop.call_soon_threadsafe(self._exiting.set)

    async def main_loop(self) -> None:
        """uvicorn's own looks ten times a second whether it should end, which is half of what an idle gateway does."""
        self._loop = asyncio.get_running_loop()
        count = 0
        while not await self.on_tick(count):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(_TICK_S)):
                    await self._exiting.wait()
            count += _TICKS

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._https.start(self._protocol)
            tell_ready()

    def _protocol(self) -> BoundedHttp:
        """As uvicorn makes one for each connection to its own listeners."""
        return BoundedHttp(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._https.close()
        self._app.begin_drain()
        await super().shutdown(sockets)


def build_server(settings: Settings, https: socket.socket | None = None) -> GatewayServer:
    """A server that is not listening yet; `https`: a socket that is, for its other listener. Raises `ConfigError`."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="auto",  # uvloop where it is installed
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(drain_s(settings)) + _LAST_WORDS_S,
    )
    return GatewayServer(config, app, HttpsListener(settings, https))


def run_gateway(settings: Settings, *, descriptor: int | None = None, https: int | None = None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status. `descriptor` and `https` are listening sockets to serve
    instead of the settings' addresses: they outlive this process, so that a restart refuses nobody."""
    set_up_logging(settings, process="gateway")
    try:
        server = build_server(settings, _socket_of(https))
    except ConfigError as error:
        logger.error("%s", error)  # noqa: TRY400 the text says it all
        return 2
    # uvicorn raises the signal that stopped it again when it is done: by then there is nothing left to do.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _already_stopped)
    if settings.debug:
        logger.info("debug %d: %s", settings.debug, settings)
    gc.freeze()  # what was imported lives for ever: no collection needs to look at it
    listener = _socket_of(descriptor)
    server.run(sockets=None if listener is None else [listener])
    return 1 if server.has_failed else 0


def _socket_of(descriptor: int | None) -> socket.socket | None:
    return None if descriptor is None else socket.socket(fileno=descriptor)


def _already_stopped(number: int, frame: FrameType | None) -> None:
    """The server has ended cleanly."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="mlx-gateway gateway")
    parser.add_argument("--fd", type=int, help="serve this inherited listening socket")
    parser.add_argument("--https-fd", type=int, help="serve this one over HTTPS")
    options = parser.parse_args()
    try:
        settings = load_settings()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return run_gateway(settings, descriptor=options.fd, https=options.https_fd)


if __name__ == "__main__":
    sys.exit(main())
