"""Waits for a job on one queue without holding up anything else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import cast

import redis

from worker.rq.claims import Popped

log = logging.getLogger(__name__)

_WAIT_S = 0.5
_RETRY_S = 0.5


class QueueWaiter:
    """Moves one job id at a time from a queue to its intermediate list, where it survives our death, and hands it
    to `post`. It then waits for `allow` before it takes another, so that it never takes more than can be run."""

    def __init__(self, client: redis.Redis, queue_key: str, post: Callable[[Popped], None]) -> None:
        self._client = client
        self._queue_key = queue_key
        self._post = post
        self._allowed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"wait-{queue_key}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def allow(self) -> None:
        """One more job may be taken. Calling it again before one came changes nothing."""
        self._allowed.set()

    def hold(self) -> None:
        """Take no job until allowed again; one may be on its way already."""
        self._allowed.clear()

    def stop(self) -> None:
        """Take no more; one may be on its way already."""
        self._stopping.set()
        self._allowed.set()

    def join(self) -> None:
        """Nothing is taken any more once this returns (after `stop`)."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        is_away = False
        while not self._stopping.is_set():
            self._allowed.wait()
            if self._stopping.is_set():
                return
            try:
                job_id = self._pop()
            except redis.RedisError as error:
                if not is_away:
                    log.warning("no jobs can be taken: %s", error)
                is_away = True
                self._stopping.wait(_RETRY_S)
                continue
            is_away = False
            if job_id is not None:
                self._allowed.clear()
                self._post(Popped.of(self._queue_key, job_id))

    def _pop(self) -> bytes | None:
        # redis-py types the time-out as int; the server takes fractions since 6.0.
        timeout_s = cast(int, _WAIT_S)
        return cast(
            bytes | None,
            self._client.blmove(self._queue_key, f"{self._queue_key}:intermediate", timeout_s, "LEFT", "RIGHT"),
        )
