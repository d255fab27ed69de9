"""A server that a person's command starts: kept running as long as its worker, its output among the worker's lines.

Whether it is ready is asked of it over HTTP; a line that says so is progress and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from shared.config import plain_environment
from shared.errors import ModelUnavailableError
from shared.processes import GuardedProcess

log = logging.getLogger(__name__)

_READY = re.compile(r"listening on|starting httpd|uvicorn running|model loaded", re.IGNORECASE)
_OURS = ("MLX_GATEWAY_", "REDIS_URL")  # settings and secrets that are nobody else's
_STOP_S = 10.0
_PAUSES_S = (0.25, 30.0)  # before it is started again: the first, and the longest
_SHOWN_LINES = 20
_LAST_WORDS_S = 5.0  # until they are read
_READY_SHARE = 0.9  # of what a person waits for


class Supervised:
    """`name` is that of its lines. Used on the worker's loop, but for the thread that reads them."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = name
        self._command = command
        self._environment = environment
        self._lines: deque[str] = deque(maxlen=_SHOWN_LINES)
        self._process: GuardedProcess | None = None
        self._reader: threading.Thread | None = None
        self._watch: asyncio.Task[None] | None = None
        self._report: Callable[[float], None] = lambda done: None
        self.starts = 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def start(self, report: Callable[[float], None]) -> None:
        """Raises `ModelUnavailableError` where there is no such program."""
        self._report = report
        self._launch()

    def keep(self) -> None:
        """It answers: from here on it is started again when it ends."""
        self._report = lambda done: None
        self._watch = asyncio.get_running_loop().create_task(self._keep())

    def check(self) -> None:
        """Before it has answered. Raises `ModelUnavailableError` with its last words when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise ModelUnavailableError(f"{self._name}: its command ended with {self._process.poll()}: {self._words()}")

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)

    def _launch(self) -> None:
        reading, writing = os.pipe()
        foreign = {name: value for name, value in plain_environment().items() if not name.startswith(_OURS)}
        environment = {**foreign, **self._environment}
        try:
            self._process = GuardedProcess(self._command, env=environment, output=writing, grace_s=_STOP_S)
        except OSError as error:
            os.close(reading)
            raise ModelUnavailableError(f"{self._name}: {self._command[0]} cannot be started: {error}") from error
        finally:
            os.close(writing)
        self.starts += 1
        self._reader = threading.Thread(target=self._follow, args=(reading,), name=f"{self._name}-log", daemon=True)
        self._reader.start()

    def _follow(self, descriptor: int) -> None:
        with os.fdopen(descriptor, errors="replace") as lines:
            for line in lines:
                self._lines.append(line.rstrip())
                log.info("%s: %s", self._name, line.rstrip())
                if _READY.search(line):
                    self._report(_READY_SHARE)

    def _words(self) -> str:
        """Of a command that has ended: its last words may still be on their way."""
        if self._reader is not None:
            self._reader.join(_LAST_WORDS_S)
        return " | ".join(self._lines) or "it said nothing"

    async def _keep(self) -> None:
        pause_s, longest_s = _PAUSES_S
        while self._process is not None:
            status = await self._process.ended()
            log.error("%s: its command ended with %d and is started again: %s", self._name, status, self._words())
            await asyncio.sleep(pause_s)
            pause_s = min(longest_s, 2 * pause_s)
            with contextlib.suppress(ModelUnavailableError):
                self._launch()
