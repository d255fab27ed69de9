"""Requests that may be asked again at any gateway, by the key that their clients sent with them.

A key names a request of one tenant. Who comes first with it writes down the request's id and the digest of what was
asked; who comes later with the same finds it. Where it runs is what RQ's workers note when they take a job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from rq.job import Job

from gateway.dispatch.asking import asking_redis
from shared import keys, wire
from shared.errors import InvalidRequestError, WireError
from shared.healing import heal_async
from shared.keys import Names, job_id
from shared.request import End, Join
from shared.seal import Keyring, Purpose, Seal

_MOST_ATTEMPTS = 20
_KEY_CHARACTERS = 32
_WORKER_OF_LIST = re.compile("@([^@!]+)(?:!|$)")  # in `Names.worker_queue`; a model's name may have an @, too


@dataclass(frozen=True, slots=True)
class Repeat:
    """What a client calls its request, so that it can ask it again, and the digest of what it asks."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Run:
    """Who asked first: the request's id, at which gateway."""

    request_id: str
    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Of a run's latest attempt: the worker that took it, or the one on whose list it waits (empty on the model's own).
    Neither where it is over, or nothing is known of it."""

    taken_by: str = ""
    waits_as: int = 0  # the attempt that waits, counted from 1
    waits_for: str = ""
    has_gateway: bool = True


class Runs:
    """Every method raises `BrokerUnavailableError` when Redis is away."""

    def __init__(self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring, gateway: str) -> None:
        self._redis = broker
        self._names = names
        self._keyring = keyring
        self._gateway = gateway

    async def first(self, tenant: str, repeat: Repeat, request_id: str) -> Run | None:
        """Who asked this first; None when nobody did, and this request is now the first. Raises `InvalidRequestError`
        where the same key came with something else."""
        name, seal, data = self._record(tenant, repeat, request_id)
        async with asking_redis("the request's key could not be looked up"):
            await heal_async(self._redis, {name: "string"})
            if await self._redis.set(name, data, ex=keys.RUN_TTL_S, nx=True):
                return None
            found = await self._redis.get(name)
        run, digest = _read(seal, found if isinstance(found, bytes) else b"")
        if digest and digest != repeat.digest:
            text = "this Idempotency-Key was sent with another request; what is new needs a key of its own"
            raise InvalidRequestError(text, param="Idempotency-Key")
        if run is None:
            await self.begin_anew(tenant, repeat, request_id)
        return run

    async def begin_anew(self, tenant: str, repeat: Repeat, request_id: str) -> None:
        """This request is the first: the one before has ended."""
        name, _, data = self._record(tenant, repeat, request_id)
        async with asking_redis("the request's key could not be noted"):
            await self._redis.set(name, data, ex=keys.RUN_TTL_S)

    async def whereabouts(self, run: Run) -> Whereabouts:
        """Where the request is now."""
        jobs = [job_id(run.request_id, number + 1) for number in range(_MOST_ATTEMPTS)]
        async with (
            asking_redis("the request's worker could not be looked up"),
            self._redis.pipeline(transaction=False) as pipe,
        ):
            pipe.mget([self._names.run_once(job) for job in jobs])
            pipe.exists(self._names.gateway(run.gateway))
            for job in jobs:
                pipe.hmget(Job.key_for(job), "status", "origin")
            taken, has_gateway, *records = await pipe.execute()
        return _whereabouts(taken, records, has_gateway=bool(has_gateway))

    async def has_lease(self, worker: str) -> bool:
        async with asking_redis("the worker could not be looked up"):
            return bool(await self._redis.exists(self._names.lease(worker)))

    async def join(self, worker: str, run: Run, request_id: str) -> bool:
        """Ask the worker to say here, too, what it says of the request. False when it does not listen."""
        join = Join(request_id=run.request_id, heard_as=request_id, gateway=self._gateway, codes=wire.READER.codes)
        return await self._tell(worker, join)

    async def leave(self, worker: str, request_id: str) -> None:
        """Nobody here wants what was asked for with `join`."""
        await self._tell(worker, End(request_id=request_id, attempt=0, reason="nobody waits for it"))

    async def _tell(self, worker: str, message: Join | End) -> bool:
        seal = self._keyring.of_worker(worker).seal(Purpose.CONTROL, worker)
        async with asking_redis("the worker could not be asked"):
            return bool(await self._redis.publish(self._names.worker_channel(worker), seal.close(wire.encode(message))))

    def _record(self, tenant: str, repeat: Repeat, request_id: str) -> tuple[str, Seal, bytes]:
        word = hashlib.sha256(repeat.key.encode(errors="surrogateescape")).hexdigest()[:_KEY_CHARACTERS]
        name = self._names.run(tenant, word)
        seal = self._keyring.gateways.seal(Purpose.RUN, name)
        return name, seal, seal.close(wire.encode((request_id, self._gateway, repeat.digest)))


def _whereabouts(taken: Sequence[Any], records: Sequence[Sequence[Any]], *, has_gateway: bool) -> Whereabouts:
    """From the latest attempt backwards. A job that was taken says so for as long as it could live."""
    for number in range(len(records), 0, -1):
        worker, (status, origin) = taken[number - 1], records[number - 1]
        if isinstance(worker, bytes):
            return Whereabouts(taken_by=worker.decode(errors="replace"), has_gateway=has_gateway)
        if status == b"queued" and isinstance(origin, bytes):
            found = _WORKER_OF_LIST.search(origin.decode(errors="replace"))
            waits_for = found[1] if found else ""
            return Whereabouts(waits_as=number, waits_for=waits_for, has_gateway=has_gateway)
    return Whereabouts(has_gateway=has_gateway)


def _read(seal: Seal, data: bytes) -> tuple[Run | None, str]:
    """What a record says, and the digest in it; nothing of one that is gone or no gateway's."""
    try:
        request_id, gateway, digest = wire.decode(seal.open(data))
        return Run(str(request_id), str(gateway)), str(digest)
    except (WireError, ValueError, TypeError):
        return None, ""
