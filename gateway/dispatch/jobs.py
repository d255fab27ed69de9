"""Work on its way to workers: the only module of the gateway that knows RQ.

RQ's own objects would take longer to make a job than Redis takes to hand it to a worker, so what RQ would write is
written here, field by field: body, job and its place in the queue, in one write and in this order. What that relies on
is listed in `RQ_INTERNALS` and pinned by tests, one of which has RQ write the same job.

The connections have no time-outs of their own (redis-py makes a task for each of its time-outs): every method here has
one for all that it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import redis.asyncio
from rq import Queue
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry

from gateway.dispatch import queue_scripts
from gateway.dispatch.asking import asking_redis
from gateway.dispatch.explanation import explain
from gateway.dispatch.facts import Placed
from gateway.dispatch.lookups import conversation_of, lookups_of
from shared import keys, wire
from shared.errors import BrokerUnavailableError, OverloadedError
from shared.grants import issue
from shared.healing import heal_async, tell_healed
from shared.keys import Names, host_of, job_id, word
from shared.request import End
from shared.seal import HostKey, Keyring, Purpose
from shared.work import Envelope

logger = logging.getLogger(__name__)

RQ_VERSION = "2.12"
RQ_INTERNALS = (
    "RQ's keys: Job.key_for, Queue.redis_queue_namespace_prefix, Queue.redis_queues_keys, "
    "CanceledJobRegistry.key_template",
    "a job that waits is a hash of the fields that `job_fields` makes and a member of its queue's list, and the queue "
    "one of the set of queues",
)

_NO_TIMEOUT = -1  # how long an answer may take is the client's business; how long it waits, the deadline's
_CHANGED = -2
_UNDER_WAY = (JobStatus.QUEUED.value, JobStatus.STARTED.value)
_SOON_S = 5.0  # beyond its prefill, that what was placed counts as soon known
_QUICKLY_SIGNED_BYTES = 1024 * 1024
_NOTE_TOGETHER_S = 0.1  # ends of requests
_CANCEL_RETRY_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What RQ says about a job. `status` is empty when Redis does not know the job. Where its worker died, and was
    buried: how many jobs it had, and how many of them were suspects."""

    status: str
    worker: str
    died_with: int = 0
    died_suspects: int = 0


class ChangedError(Exception):
    """Something was put on the worker's lists since it was looked at. Nothing was written."""


class WorkerGoneError(Exception):
    """The worker that a job was to be given to has no lease any more. Nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """An attempt, as far as it must be known to be cancelled, and where it was placed last."""

    request_id: str
    attempt: int
    model: str
    place: Placed


def queue_key(queue: str) -> str:
    """The Redis list behind an RQ queue."""
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


def job_fields(data: bytes, *, queue: str, description: str, now: datetime) -> dict[Any, str | int | bytes]:
    """The hash of a job that waits for what its `data` says to be done, as RQ writes it."""
    time_text = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "created_at": time_text,
        "data": data,
        "success_callback_name": "",
        "failure_callback_name": "",
        "stopped_callback_name": "",
        "started_at": "",
        "ended_at": "",
        "last_heartbeat": "",
        "worker_name": "",
        "group_id": "",
        "origin": queue,
        "description": description,
        "enqueued_at": time_text,
        "timeout": _NO_TIMEOUT,
        "result_ttl": keys.RESULT_TTL_S,
        "failure_ttl": keys.FAILURE_TTL_S,
        "status": JobStatus.QUEUED.value,
    }


async def drain(broker: redis.asyncio.Redis, worker: str) -> bool:
    """RQ's shutdown command: the worker finishes what it holds and ends. False when no such worker listens.
    Raises `BrokerUnavailableError`."""
    async with asking_redis("the worker could not be told"):
        return bool(await broker.publish(PUBSUB_CHANNEL_TEMPLATE % worker, orjson.dumps({"command": "shutdown"})))


@dataclass(frozen=True, slots=True)
class Written:
    """An attempt as it is written for one host: the body, and the job's data, which is signed for it."""

    body: bytes
    data: bytes


class JobQueue:
    """Places, moves and cancels. Every method raises `BrokerUnavailableError` when Redis is away, and what puts
    something there `OverloadedError` when it is full."""

    def __init__(self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring) -> None:
        self._redis = broker
        self._names = names
        self._keyring = keyring
        self._loads = keyring.anyone.seal(Purpose.LOADS)
        self._cancelling: set[asyncio.Task[None]] = set()
        self._ends: dict[str, bytes] = {}  # what became of requests, by id, until it is noted
        self._noting: asyncio.Task[None] | None = None
        self._place = broker.register_script(queue_scripts.PLACE)
        self._move = broker.register_script(queue_scripts.MOVE)
        self._cancel = broker.register_script(queue_scripts.CANCEL)

    async def submit(self, envelope: Envelope, place: Placed) -> int:
        """Store the body and put the job where it was placed, in one round trip. How many jobs were ever put on the
        worker's lists, 0 where no worker holds the model yet. Raises `WorkerGoneError`, and `ChangedError` when
        something was put there since it was looked at. When another error is raised, the job may have arrived all the
        same: cancel it."""
        ttl_s = _ttl_s(envelope)
        written = await self._written(envelope, place)
        fields = job_fields(
            written.data,
            queue=self._queue(envelope, place),
            description=f"{envelope.kind.name} {envelope.request.model}",
            now=datetime.now(UTC),
        )
        fields |= {keys.BODY_AT: host_of(place.worker), keys.ASKED_AT: envelope.gateway}
        if envelope.is_suspect:
            fields[keys.IS_SUSPECT] = 1
        async with asking_redis("the request could not be queued"):
            if not place.worker:
                await self._queue_for_any(envelope, place, written, fields, ttl_s)
                return 0
            arguments = [*_arguments(envelope, place, written.body, ttl_s), *_flat(fields)]
            counter = _told(await self._place(self._keys(envelope, place), arguments))
        if counter == _CHANGED:
            raise ChangedError(place.worker)
        if counter < 0:
            raise WorkerGoneError(place.worker)
        return counter

    async def _queue_for_any(
        self, envelope: Envelope, place: Placed, written: Written, fields: dict[Any, Any], ttl_s: int
    ) -> None:
        """On the model's list, from where it is moved once a worker holds the model. What is there already stays."""
        job = envelope.job_id
        list_key = queue_key(self._queue(envelope, place))
        await heal_async(self._redis, {Queue.redis_queues_keys: "set", list_key: "list", Job.key_for(job): "hash"})
        if _text(await self._redis.hget(Job.key_for(job), "status")) in _UNDER_WAY:
            return
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._body(envelope, place), written.body, ex=ttl_s)
            pipe.hset(Job.key_for(job), mapping=fields)
            pipe.expire(Job.key_for(job), ttl_s)
            pipe.sadd(Queue.redis_queues_keys, list_key)
            pipe.rpush(list_key, job)
            await pipe.execute()

    async def move(self, envelope: Envelope, was: Placed, place: Placed) -> int:
        """Take the waiting job to another worker's list, as the same attempt: nothing of it ran. How many jobs were
        ever put on that worker's lists; 0 when the job waits no longer. Raises `WorkerGoneError`."""
        written = await self._written(envelope, place)
        changes = {"origin": self._queue(envelope, place), "data": written.data, keys.BODY_AT: host_of(place.worker)}
        arguments = [*_arguments(envelope, place, written.body, _ttl_s(envelope)), *_flat(changes)]
        redis_keys = [*self._keys(envelope, place), self._body(envelope, was), self._names.placed(was.worker)]
        async with asking_redis("the request could not be moved"):
            counter = _told(await self._move(redis_keys, arguments))
        if counter < 0:
            raise WorkerGoneError(place.worker)
        return counter

    async def _written(self, envelope: Envelope, place: Placed) -> Written:
        envelope = replace(envelope, grant=self._grant(place))
        body, signature = await self._sealed(envelope, self._keyring.of_worker(place.worker))
        arguments = [envelope.request.id, envelope.attempt, signature, envelope.kind.name]
        return Written(body, zlib.compress(wire.JobSerializer.dumps((keys.JOB_FUNCTION, None, arguments, {}))))

    def _grant(self, place: Placed) -> bytes:
        """Leave to fetch what the place was chosen for, or to measure a link that is not known there yet."""
        prospect = place.prospect
        lent = None if prospect is None else prospect.lender or prospect.unmeasured
        if prospect is None or lent is None:
            return b""
        tokens = prospect.cached_tokens if prospect.lender is not None else 0
        key, reader = self._keyring.of(lent.host), host_of(place.worker)
        return issue(
            key,
            reader=reader,
            generation=self._keyring.generation(reader),
            address=lent.address,
            tokens=tokens,
            now_s=time.time(),
        ).encode()

    def _queue(self, envelope: Envelope, place: Placed) -> str:
        if place.worker:
            return self._names.worker_queue(place.own_model or envelope.request.model, place.worker, place.lane)
        return self._names.queue(envelope.request.model, place.lane)

    def _body(self, envelope: Envelope, place: Placed) -> str:
        return self._names.body(host_of(place.worker), envelope.request.id, envelope.attempt)

    def _keys(self, envelope: Envelope, place: Placed) -> list[str]:
        names = self._names
        return [
            names.lease(place.worker),
            queue_key(self._queue(envelope, place)),
            names.bell(place.worker),
            names.placed(place.worker),
            self._body(envelope, place),
            Job.key_for(envelope.job_id),
            names.soon(place.worker),
            names.why(envelope.request.id),
            names.home(conversation_of(envelope.request).key),
            names.home(conversation_of(envelope.request).user),
        ]

    async def _sealed(self, envelope: Envelope, key: HostKey) -> tuple[bytes, str]:
        """The envelope's bytes and their signature. (Hashing lets others run, unlike most of what threads could do.)"""
        body = wire.encode(envelope)
        signed = (envelope.subject, body)
        if len(body) < _QUICKLY_SIGNED_BYTES:
            return body, key.sign(*signed)
        return body, await asyncio.to_thread(key.sign, *signed)

    async def cancel(self, work: Placement, reason: str) -> bool:
        """Stop the attempt wherever it is: queued, claimed, prefilling or decoding.

        True when it was still queued: then the job ends as RQ's own `Job.cancel` would leave it. Otherwise the worker
        that RQ names is told; one that is about to claim the job finds that the attempt has ended. The body of a job
        that nobody has goes with it; one that is started is its worker's to remove, or that of who buries the worker.
        """
        names, job = self._names, job_id(work.request_id, work.attempt)
        registry = CanceledJobRegistry.key_template.format(names.queue(work.model, work.place.lane))
        body = names.body(host_of(work.place.worker), work.request_id, work.attempt)
        async with asking_redis("the request could not be cancelled"):
            removed = _told(
                await self._cancel(
                    [names.ended(work.request_id), Job.key_for(job), body, registry, names.placed(work.place.worker)],
                    [job, work.attempt, keys.ENDED_TTL_S, names.bodies, names.placed("")],
                )
            )
            if not removed:
                message = End(request_id=work.request_id, attempt=work.attempt, reason=reason)
                await self._tell_holder(job, message, work.place.worker)
        return bool(removed)

    async def _tell_holder(self, job: str, message: End, placed: str) -> None:
        """Who is about to claim the job finds the mark of what has ended. What was joined has none."""
        worker = _text(await self._redis.hget(Job.key_for(job), "worker_name")) if message.attempt else placed
        if worker:
            seal = self._keyring.of_worker(worker).seal(Purpose.CONTROL, worker)
            await self._redis.publish(self._names.worker_channel(worker), seal.close(wire.encode(message)))

    def cancel_soon(self, work: Placement, reason: str) -> None:
        """Cancel without making the caller wait, trying again for some seconds while Redis is away."""
        task = asyncio.get_running_loop().create_task(self._cancel_patiently(work, reason))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel_patiently(self, work: Placement, reason: str) -> None:
        for pause_s in _CANCEL_RETRY_S:
            try:
                await self.cancel(work, reason)
                return
            except (BrokerUnavailableError, OverloadedError):
                await asyncio.sleep(pause_s)
        logger.warning("request %s could not be cancelled: Redis cannot be reached", work.request_id)

    def clear_soon(self, job: str) -> None:
        """The job is no suspect any more. Nobody waits for that to be written."""
        task = asyncio.get_running_loop().create_task(self._clear(job))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _clear(self, job: str) -> None:
        with contextlib.suppress(BrokerUnavailableError, OverloadedError):
            async with asking_redis("the job could not be cleared"):
                await self._redis.hdel(Job.key_for(job), keys.IS_SUSPECT)

    def note_end_soon(self, request_id: str, outcome: bytes) -> None:
        """Beside the explanation of its placement. Nobody waits for it, and nothing is lost with it but that; those
        that come within a moment go together."""
        if not self._ends:
            self._noting = asyncio.get_running_loop().create_task(self._note_ends())
        self._ends[request_id] = outcome

    async def _note_ends(self) -> None:
        await asyncio.sleep(_NOTE_TOGETHER_S)
        ends, self._ends = self._ends, {}
        with contextlib.suppress(BrokerUnavailableError, OverloadedError):
            async with asking_redis("the ends could not be noted"), self._redis.pipeline(transaction=False) as pipe:
                for request_id, outcome in ends.items():
                    pipe.hset(self._names.why(request_id), "end", outcome)
                    pipe.expire(self._names.why(request_id), keys.WHY_TTL_S)
                await pipe.execute()

    async def states(self, jobs: Sequence[str]) -> list[JobState]:
        """What RQ says about each job, in one round trip."""
        async with asking_redis("job states could not be read"):
            async with self._redis.pipeline(transaction=False) as pipe:
                for job in jobs:
                    pipe.hmget(Job.key_for(job), "status", "worker_name", keys.DIED_WITH, keys.DIED_SUSPECTS)
                rows = await pipe.execute()
        return [_state(*row) for row in rows]

    async def request_load(self, model: str, hosts: Sequence[str] = ()) -> None:
        """Ask the hosts to load a model that no worker holds: these, by their words, or all that can."""
        asked: list[Any] = [[model, host] for host in hosts] or [model]
        async with asking_redis(f"no host could be asked to load {model}"):
            await self._redis.publish(self._names.loads, self._loads.close(wire.encode(asked)))

    async def request_unload(self, host: str, model: str, *, is_forced: bool) -> None:
        """Tell a host, by its name, to unload a model. `is_forced`: also a pinned one."""
        about, model = word(host), model.removesuffix(f"@{word(host)}")
        seal = self._keyring.of(about).seal(Purpose.ORDERS, about)
        async with asking_redis(f"{host} could not be told to unload {model}"):
            order = wire.encode(["unload", model, is_forced])
            await self._redis.publish(self._names.host_channel(about), seal.close(order))

    async def settle(self, timeout_s: float) -> None:
        """Let the cancellations that are under way end."""
        if self._cancelling:
            await asyncio.wait(tuple(self._cancelling), timeout=timeout_s)

    async def aclose(self, timeout_s: float) -> None:
        """Let all end that nobody waits for."""
        left = [*self._cancelling, *([self._noting] if self._noting is not None else [])]
        if left:
            await asyncio.wait(left, timeout=timeout_s)


def _arguments(envelope: Envelope, place: Placed, body: bytes, ttl_s: int) -> list[Any]:
    """Of PLACE and MOVE, up to the job's fields."""
    prospect, note = place.prospect, place.note
    tags = [tag for tag, _ in lookups_of(envelope.request)] if prospect is not None else []
    will_last_s = math.ceil(_SOON_S + (prospect.first_s if prospect is not None else 0.0))
    is_cold = prospect is not None and not prospect.cached_tokens
    has_home = prospect is not None and conversation_of(envelope.request).key and envelope.request.priority != "side"
    return [
        *(envelope.job_id, body, ttl_s, place.seen),
        *((note.text(), note.score) if prospect is not None else ("", "")),
        *(int(is_cold), will_last_s, explain(place), len(tags), *tags),
        place.worker if has_home else "",
        int(bool(conversation_of(envelope.request).user)),
    ]


def _told(answer: Any) -> int:
    """A script's number; what it has healed is said in the log."""
    number, healed = answer
    tell_healed(healed)
    return int(number)


def _flat(fields: Mapping[Any, Any]) -> list[Any]:
    return [item for pair in fields.items() for item in pair]


def _ttl_s(envelope: Envelope) -> int:
    """How long body and job live. RQ's own `ttl` would also expire two lists of dependencies that never exist."""
    return max(keys.BODY_TTL_S, math.ceil(envelope.deadline_s - time.time()))


def _state(status: Any, worker: Any, died: Any, suspects: Any) -> JobState:
    return JobState(
        status=_text(status), worker=_text(worker), died_with=int(died or 0), died_suspects=int(suspects or 0)
    )


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
