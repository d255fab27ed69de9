"""What lies in a model's queues, whatever its lane and worker."""

from __future__ import annotations

import redis
from rq.registry import BaseRegistry, CanceledJobRegistry, StartedJobRegistry

from shared.wire import JobSerializer
from shared.work import LANES
from tests.support.names import NAMES


def waiting_jobs(client: redis.Redis, model: str) -> list[str]:
    """Ids of the jobs that no worker has claimed: on the lists of its workers, and on the model's own."""
    keys = [f"rq:queue:{NAMES.queue(model, lane)}" for lane in LANES]
    keys += [key.decode() for key in client.scan_iter(f"rq:queue:{NAMES.queue(model)}@*")]
    return [job.decode() for key in keys for job in client.lrange(key, 0, -1)]


def recorded_jobs(client: redis.Redis, model: str, kind: type[BaseRegistry]) -> list[str]:
    """Ids in the registries of a kind."""
    return [
        job
        for lane in LANES
        for job in kind(NAMES.queue(model, lane), connection=client, serializer=JobSerializer).get_job_ids(
            cleanup=False
        )
    ]


def running_jobs(client: redis.Redis, model: str) -> list[str]:
    return recorded_jobs(client, model, StartedJobRegistry)


def cancelled_jobs(client: redis.Redis, model: str) -> list[str]:
    return recorded_jobs(client, model, CanceledJobRegistry)
