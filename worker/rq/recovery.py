"""What every worker does now and then for the queues it serves, so that nothing dead stays in RQ's records.

All of it is safe when many do it at once, and needs no lock: RQ's own lock, left by a worker that was killed, would
stop recovery for a quarter of an hour.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import cast

import redis
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.worker_registration import clean_worker_registry

from shared import keys
from worker.rq.claims import Claims, Popped
from worker.rq.reaping import reap_expired
from worker.rq.safe_job import SafeQueue

log = logging.getLogger(__name__)

EVERY_S = 2.0
UNCLAIMED_S = 5.0  # a popped job that nobody started for this long is given back
_TIDY_S = 30.0


class Recovery:
    """`execution_ttl_s`: who is silent for so long has lost what it took."""

    def __init__(
        self, client: redis.Redis, queues: Sequence[SafeQueue], claims: Claims, *, execution_ttl_s: float
    ) -> None:
        self._client = client
        self._queues = queues
        self._claims = claims
        self._unclaimed_s = min(UNCLAIMED_S, execution_ttl_s)
        self._unclaimed_since_s: dict[Popped, float] = {}
        self._next_s = 0.0
        self._next_tidy_s = 0.0

    def run_if_due(self) -> None:
        """Raises `redis.RedisError`."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + EVERY_S
        failed = reap_expired(self._client, self._queues)
        if failed:
            log.warning("%d jobs of workers that died have failed", failed)
        self.give_back_unclaimed(now_s)
        if now_s >= self._next_tidy_s:
            self._next_tidy_s = now_s + _TIDY_S
            self._tidy()

    def give_back_unclaimed(self, now_s: float) -> None:
        """Jobs whose worker died between taking them off the queue and starting them. `now_s` is monotonic."""
        lying = [
            Popped.of(queue.key, job_id)
            for queue in self._queues
            for job_id in cast(list[bytes], self._client.lrange(queue.intermediate_queue_key, 0, -1))
        ]
        self._unclaimed_since_s = {popped: self._unclaimed_since_s.get(popped, now_s) for popped in lying}
        for popped, since_s in self._unclaimed_since_s.items():
            if now_s - since_s >= self._unclaimed_s and self._claims.give_back(popped):
                log.warning("job %r was taken and never started: queued again", popped.job_id)

    def _tidy(self) -> None:
        for queue in self._queues:
            for registry in (FinishedJobRegistry, FailedJobRegistry):
                registry(queue.name, connection=self._client, job_class=queue.job_class).cleanup()
            cancelled = CanceledJobRegistry.key_template.format(queue.name)
            self._client.zremrangebyscore(cancelled, "-inf", time.time() - keys.ENDED_TTL_S)
            clean_worker_registry(queue)
