"""What every worker does now and then for the queues it serves, so that nothing dead stays in RQ's records.

All of it is safe when many do it at once, and needs no lock: RQ's own lock, left by a worker that was killed, would
stop recovery for a quarter of an hour.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import redis
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY, get_keys

from shared import keys
from shared.beats import until_beat_s
from shared.clock import RedisClock
from shared.healing import heal, is_wrong_type
from shared.keys import Names
from worker.rq.reaping import reap_expired
from worker.rq.records import registries_of
from worker.rq.safe_job import SafeQueue

log = logging.getLogger(__name__)

EVERY_S = 2.0
_TIDY_S = 30.0
_GAIN_S = 0.5  # more than round trips that took their time


class Recovery:
    """`queues` are the model's, by lane: all jobs that were ever started belong to one of them. `host` is the word of
    the one host whose workers' records may be looked at; empty for all. By `clock` is seen that Redis's was set: then
    all entries have ended at once, and those whose workers live are renewed before the next look."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        queues: Sequence[SafeQueue],
        host: str = "",
        clock: RedisClock | None = None,
    ) -> None:
        self._client = client
        self._names = names
        self._clock = clock
        self._ahead_s = -math.inf
        self._host = host
        self._queues = queues
        self._next_s = 0.0
        self._next_tidy_s = 0.0
        self._started = [queue.started_job_registry.key for queue in queues]
        self._may_hold = True  # whether a job may run anywhere: unless Redis has just said that none does

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_s

    def ask(self, pipe: Any) -> None:
        """Whether any job runs, along with something else: mostly that is all that there is to look at."""
        pipe.exists(*self._started)

    def hear(self, reply: Any) -> None:
        self._may_hold = reply != 0

    def run_if_due(self) -> None:
        """Raises `redis.RedisError`."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + until_beat_s(EVERY_S, now_s)
        try:
            self._recover(now_s)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            for queue in self._queues:
                heal(self._client, registries_of(queue.name))

    def _recover(self, now_s: float) -> None:
        may_hold, self._may_hold = self._may_hold, True
        is_at_rest = self._was_set(now_s) or not may_hold
        failed = 0 if is_at_rest else reap_expired(self._client, self._names, self._queues)
        if failed:
            log.warning("%d jobs of workers that died have failed", failed)
        if now_s >= self._next_tidy_s:
            self._next_tidy_s = now_s + _TIDY_S
            self._tidy()

    def _was_set(self, now_s: float) -> bool:
        """Whether Redis's clock has gained on ours since the last look."""
        if self._clock is None:
            return False
        before_s, self._ahead_s = self._ahead_s, self._clock.now_s() - now_s
        return -math.inf < before_s < self._ahead_s - _GAIN_S

    def _tidy(self) -> None:
        for queue in self._queues:
            for registry in (FinishedJobRegistry, FailedJobRegistry):
                registry(queue.name, connection=self._client, job_class=queue.job_class).cleanup()
            cancelled = CanceledJobRegistry.key_template.format(queue.name)
            self._client.zremrangebyscore(cancelled, "-inf", time.time() - keys.ENDED_TTL_S)
            self._forget_workers(queue)

    def _forget_workers(self, queue: SafeQueue) -> None:
        """Those whose records have ended, as RQ's own `clean_worker_registry` does it."""
        known = [key for key in get_keys(queue) if key.startswith(f"rq:worker:{self._host}.") or not self._host]
        with self._client.pipeline(transaction=False) as pipe:
            for key in known:
                pipe.exists(key)
            gone = [key for key, lives in zip(known, pipe.execute(), strict=True) if not lives]
        if gone:
            self._client.srem(WORKERS_BY_QUEUE_KEY % queue.name, *gone)
            self._client.srem(REDIS_WORKER_KEYS, *gone)
