"""One llama.cpp server: started, waited for, started again when it dies, and stopped.

It runs under a guard, so that it never outlives this process. What it writes is in our log; its last lines are what a
person is told when it cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import psutil

from shared.config import plain_environment
from shared.errors import ModelUnavailableError, WorkerLostError
from shared.http_client import Address, AskError, ask_json
from shared.processes import GuardedProcess
from shared.restarts import Restarts
from worker.engines.streamed import EngineBrokenError

log = logging.getLogger(__name__)

_POLL_S = 0.05
_LAST_LINES = 20
_TOLD_LINES = 3
_STOP_S = 5.0
_START_TRIES = 3
_BIND_WORDS = ("couldn't bind", "address already in use", "failed to bind")
_QUIET = (" I ", " D ")  # of its levels: what is of no interest to a person
_DEATH_S = 1.0
_AGAIN_S = 120.0  # for how long a request waits for a server that is started again

Flags = Callable[[int], Sequence[str]]


class LlamaServer:
    """`flags` gives the command for a port. All methods belong to the loop, but `address` and `wait_here`."""

    def __init__(self, flags: Flags, *, port: int, weight_bytes: int, auto_start: bool = True) -> None:
        self._flags = flags
        self._port = port
        self._weight_bytes = weight_bytes
        self._auto_start = auto_start
        self._key = secrets.token_urlsafe(24) if auto_start else ""
        self._process: GuardedProcess | None = None
        self._watch: asyncio.Task[None] | None = None
        self._restarts = Restarts()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._ready = asyncio.Event()
        self._ready_here = threading.Event()
        self._broken = ""
        self.starts = 0
        self.address = Address(url=f"http://127.0.0.1:{port}")

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self, report: Callable[[float], None]) -> None:
        """Raises `ModelUnavailableError` with the reason when it does not come up."""
        if not self._auto_start:
            await self._attach()
            return
        for attempt in range(_START_TRIES):
            self._launch(self._choose_port(is_first=attempt == 0))
            if await self._came_up(report):
                break
            if not any(word in line.lower() for line in self._lines for word in _BIND_WORDS):
                raise ModelUnavailableError(f"llama.cpp's server ended while it loaded the model: {self._reason()}")
        else:
            raise ModelUnavailableError(f"llama.cpp's server finds no port: {self._reason()}")
        self._say_ready()
        self._watch = asyncio.get_running_loop().create_task(self._keep())

    async def _attach(self) -> None:
        """Use the server that somebody else has started."""
        if not self._port:
            raise ModelUnavailableError(
                "gguf_config.json: without `auto_start` a `port` has to say where the server is"
            )
        try:
            status, _ = await ask_json(self.address, "/health")
        except AskError as error:
            raise ModelUnavailableError(f"there is no llama-server on port {self._port}: {error}") from error
        if status != 200:
            raise ModelUnavailableError(f"the llama-server on port {self._port} is not ready (status {status})")
        self._say_ready()

    def _choose_port(self, *, is_first: bool) -> int:
        """The one that was set where it is free, else any. (The server offers none of its own choice.)"""
        for port in (self._port, 0) if is_first else (0,):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    log.warning("port %d of gguf_config.json is taken: llama.cpp's server gets another", port)
                    continue
                return int(probe.getsockname()[1])
        raise ModelUnavailableError("this machine has no free port")

    def _launch(self, port: int) -> None:
        self.address = Address(url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {self._key}"})
        self._lines.clear()
        reading, writing = os.pipe()
        try:
            self._process = GuardedProcess(
                self._flags(port),
                env={**plain_environment(), "LLAMA_API_KEY": self._key},
                output=writing,
                grace_s=_STOP_S,
            )
        finally:
            os.close(writing)
        threading.Thread(target=self._follow, args=(reading,), name="llama-log", daemon=True).start()
        self.starts += 1

    def _follow(self, descriptor: int) -> None:
        """Its lines become ours, until it ends."""
        with os.fdopen(descriptor, errors="replace") as lines:
            for line in lines:
                text = line.rstrip()
                self._lines.append(text)
                log.log(logging.DEBUG if any(mark in text[:24] for mark in _QUIET) else logging.INFO, "%s", text)

    async def _came_up(self, report: Callable[[float], None]) -> bool:
        """Whether it is ready; False once it has ended. `/health` alone decides."""
        process = self._process
        assert process is not None
        while process.poll() is None:
            with contextlib.suppress(AskError):
                status, _ = await ask_json(self.address, "/health")
                if status == 200:
                    return True
            report(self._loaded_share())
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_POLL_S)  # for its last lines to come
        return False

    def _loaded_share(self) -> float:
        """About how much of the weights is in memory."""
        try:
            held_bytes = psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return 0.0
        return min(0.95, float(held_bytes / max(1, self._weight_bytes)))

    def _reason(self) -> str:
        errors = [line for line in self._lines if " E " in line[:24] or "rror" in line] or list(self._lines)
        return "; ".join(line.strip() for line in errors[-_TOLD_LINES:]) or "it said nothing"

    def _say_ready(self) -> None:
        self._ready.set()
        self._ready_here.set()

    async def _keep(self) -> None:
        """Start it again whenever it has died."""
        while self._process is not None:
            status = await self._process.ended()
            self._ready.clear()
            self._ready_here.clear()
            delay_s = self._restarts.delay_s(time.monotonic())
            if self._restarts.exhausted:
                self._broken = f"llama.cpp's server died {self._restarts.limit} times: {self._reason()}"
                self._say_ready()
                return
            log.error("llama.cpp's server ended with status %d (%s): started again", status, self._reason())
            await asyncio.sleep(delay_s)
            self._launch(self._choose_port(is_first=True))
            if await self._came_up(lambda done: None):
                self._say_ready()

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set() and not self._broken

    async def ready(self) -> None:
        """Wait until it can be asked. Raises `WorkerLostError` when that takes too long, and `EngineBrokenError` when
        it is given up."""
        try:
            async with asyncio.timeout(_AGAIN_S):
                await self._ready.wait()
        except TimeoutError:
            raise WorkerLostError("llama.cpp's server does not come back") from None
        if self._broken:
            raise EngineBrokenError(self._broken)

    def wait_here(self) -> None:
        """The same for another thread."""
        if not self._ready_here.wait(_AGAIN_S) or self._broken:
            raise WorkerLostError(self._broken or "llama.cpp's server does not come back")

    async def lost(self, *, is_silent: bool) -> None:
        """A request has lost it. Its end is waited for a moment, so that the request asks again behind it; one that
        lives and says nothing is ended."""
        process = self._process
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_S):
                while process is not None and self._ready.is_set() and not self._broken:
                    if is_silent:
                        log.error("llama.cpp's server lives and says nothing: it is ended")
                        process.kill()
                    await asyncio.sleep(_POLL_S)

    def kill(self) -> None:
        """End it as a crash does. From any thread."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.stop)
