"""Jobs that wait for gateways that are gone, where no worker will take them: any other gateway ends them.

A job is moved and cancelled by the gateway that owns it. On the list of a worker that lives the job of one that is gone
is taken in its turn, and ended then; on a model's own list, or that of a worker that died, it would lie with its body
until both expire.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import redis.asyncio
from rq import Queue
from rq.job import Job

from gateway.dispatch.asking import asking_redis
from gateway.dispatch.facts import Placed
from gateway.dispatch.jobs import JobQueue, Placement
from shared import keys
from shared.beats import until_beat_s
from shared.errors import BrokerUnavailableError, OverloadedError
from shared.keys import Names

logger = logging.getLogger(__name__)

EVERY_S = 5.0
GONE_S = 15.0  # for which a gateway has had no record before its work is ended: longer than it waits for Redis itself
_MOST_JOBS = 200  # of a list, in one look
_LIST = re.compile(r"(?P<model>.*?)(?:@(?P<worker>[^@!]+))?(?:!(?P<lane>[^!]*))?")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job on a list: its id, its gateway, and where it was placed."""

    job: str
    gateway: str
    model: str
    place: Placed


@dataclass(slots=True)
class GoneGateways:
    """Since when each gateway that somebody's work waits for was missed, on the monotonic clock."""

    _missed_s: dict[str, float] = field(default_factory=dict)

    def note(self, is_there: Mapping[str, bool], now_s: float) -> frozenset[str]:
        """What a look has found; those that have been gone for long enough."""
        missed = [gateway for gateway, has_record in is_there.items() if not has_record]
        self._missed_s = {gateway: self._missed_s.get(gateway, now_s) for gateway in missed}
        return frozenset(gateway for gateway, since_s in self._missed_s.items() if now_s - since_s >= GONE_S)


class Strays:
    def __init__(self, broker: redis.asyncio.Redis, names: Names, jobs: JobQueue) -> None:
        self._redis = broker
        self._names = names
        self._jobs = jobs
        self._gone = GoneGateways()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(until_beat_s(EVERY_S))
            try:
                await self.look(time.monotonic())
            except (BrokerUnavailableError, OverloadedError) as error:
                logger.debug("lists are not looked at: %s", error)

    async def look(self, now_s: float) -> int:
        """One look; how many jobs were ended. Raises `BrokerUnavailableError` and `OverloadedError`."""
        waiting = [job for queue in await self._unattended() for job in await self._waiting(queue)]
        gateways = sorted({job.gateway for job in waiting})
        there = await self._exist([self._names.gateway(gateway) for gateway in gateways])
        gone = self._gone.note(dict(zip(gateways, there, strict=True)), now_s)
        strays = [job for job in waiting if job.gateway in gone]
        for stray in strays:
            await self._end(stray)
        return len(strays)

    async def _end(self, stray: Waiting) -> None:
        request_id, _, attempt = stray.job.rpartition("-")
        work = Placement(request_id=request_id, attempt=int(attempt), model=stray.model, place=stray.place)
        logger.warning("request %s waited for gateway %s, which is gone: it is ended", request_id, stray.gateway)
        await self._jobs.cancel(work, "its gateway is gone")

    async def _unattended(self) -> list[re.Match[str]]:
        """The lists of our deployment from which no worker takes anything."""
        prefix = f"{Queue.redis_queue_namespace_prefix}{self._names.queue('')}"
        async with asking_redis("the lists could not be looked up"):
            found = await self._redis.smembers(Queue.redis_queues_keys)
        texts = sorted(key.decode(errors="replace") for key in found if isinstance(key, bytes))
        queues = [match for text in texts if text.startswith(prefix) and (match := _LIST.fullmatch(text, len(prefix)))]
        served = await self._exist([self._names.lease(queue["worker"] or "") for queue in queues])
        return [queue for queue, has_worker in zip(queues, served, strict=True) if not has_worker]

    async def _exist(self, names: list[str]) -> list[bool]:
        async with asking_redis("who is there could not be looked up"), self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.exists(name)
            return list(map(bool, await pipe.execute()))

    async def _waiting(self, queue: re.Match[str]) -> list[Waiting]:
        async with asking_redis("a list could not be looked at"), self._redis.pipeline(transaction=False) as pipe:
            pipe.lrange(queue.string, 0, _MOST_JOBS - 1)
            (found,) = await pipe.execute(raise_on_error=False)
            jobs = [job.decode(errors="replace") for job in found] if isinstance(found, list) else []
            for job in jobs:
                pipe.hget(Job.key_for(job), keys.ASKED_AT)
            gateways = await pipe.execute(raise_on_error=False)
        place = Placed(lane=queue["lane"] or "", worker=queue["worker"] or "")
        return list(_of(jobs, gateways, queue["model"], place))


def _of(jobs: list[str], gateways: list[object], model: str, place: Placed) -> Iterator[Waiting]:
    """Those that a gateway of ours has placed."""
    for job, gateway in zip(jobs, gateways, strict=True):
        if isinstance(gateway, bytes) and job.rpartition("-")[2].isdecimal():
            yield Waiting(job, gateway.decode(errors="replace"), model, place)
