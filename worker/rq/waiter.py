"""Waits for the worker's bell without holding up anything else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import redis

log = logging.getLogger(__name__)

_WAIT_S = 3.0  # below the time-out of connections, though an idle Redis comes a second late to it
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Rung:
    """Somebody has put jobs on our lists."""


class BellWaiter:
    """Says when somebody has put jobs on this worker's lists. The bell holds no job: a ring that is lost, with its
    connection or with us, loses nothing, and the next heartbeat counts what lies there.

    `client` may be asked to wait longer than its time-outs allow: they are this thread's own affair.
    """

    def __init__(self, client: redis.Redis, bell: str, ring: Callable[[], None]) -> None:
        self._client = client
        self._bell = bell
        self._ring = ring
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Wait no more. The thread ends with its wait; it holds nothing, so that nobody needs to wait for it."""
        self._stopping.set()

    def _run(self) -> None:
        is_away = False
        while not self._stopping.is_set():
            try:
                rung = self._client.blpop([self._bell], timeout=_WAIT_S)
            except redis.RedisError as error:
                if not is_away:
                    log.warning("the bell cannot be heard: %s", error)
                is_away = True
                self._stopping.wait(_RETRY_S)
                continue
            is_away = False
            if rung is not None and not self._stopping.is_set():
                self._ring()
