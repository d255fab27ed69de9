"""A request's body goes with its job, whoever dies on the way: real scripts and records against a real Redis.

Each case stops at one step of a job's life, as if whoever would have gone on was killed there; no worker here ever
takes a body away early, as if each of its UNLINKs were lost. (That the processes call these at all is shown by
`test_worker_death.py` and by the fault suite.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from rq.job import Job
from rq.worker import WorkerStatus

from gateway.dispatch.facts import Placed
from gateway.dispatch.jobs import JobQueue, Placement, queue_key
from gateway.parts import connect_broker
from shared.clock import RedisClock
from shared.config import Settings
from shared.errors import GatewayError, RequestCancelledError, WireError, WorkerLostError
from shared.events import Usage
from shared.keys import worker_name
from shared.messages import Message, TextPart
from shared.request import GenerateRequest
from shared.wire import JobSerializer
from shared.work import LANES, Envelope, Generate
from tests.support.names import NAMES
from tests.support.sealed import KEYRING
from worker.rq import records
from worker.rq.claims import Claimed, Claims
from worker.rq.gate import UNBOUNDED_S, Quota
from worker.rq.reaping import reap, reap_expired
from worker.rq.records import Slot
from worker.rq.safe_job import SafeQueue
from worker.rq.worker import EngineWorker
from worker.serving.reports import Ended
from worker.serving.ticket import Ticket

MODEL, JOB = "m", "r-1"
MAC, AIR = worker_name("mac", MODEL, "e1"), worker_name("air", MODEL, "e1")
ON_MAC, ON_AIR, NOWHERE = (Placed(lane="interactive", worker=worker) for worker in (MAC, AIR, ""))
_SHARED_LIST = queue_key(NAMES.queue(MODEL, "interactive"))


@dataclass
class Life:
    """One job, step by step. What a gateway does is done over a connection of its own."""

    client: redis.Redis
    url: str

    def _at_gateway(self, act: Callable[[JobQueue], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            client, subscriber = connect_broker(Settings(redis_url=self.url))
            try:
                return await act(JobQueue(client, NAMES, KEYRING))
            finally:
                await client.aclose()
                await subscriber.aclose()

        return asyncio.run(main())

    def place(self, place: Placed = ON_MAC) -> None:
        self._at_gateway(lambda jobs: jobs.submit(_envelope(), place))

    def move(self, was: Placed = ON_MAC, to: Placed = ON_AIR) -> None:
        assert self._at_gateway(lambda jobs: jobs.move(_envelope(), was, to))

    def cancel(self, believed_at: Placed = ON_MAC) -> bool:
        work = Placement(request_id="r", attempt=1, model=MODEL, place=believed_at)
        return bool(self._at_gateway(lambda jobs: jobs.cancel(work, "the end")))

    def claim(self, worker: str = MAC) -> list[Claimed]:
        claims = Claims(self.client, NAMES, MODEL, worker, clock=RedisClock(), execution_ttl_s=6, worker_ttl_s=15)
        return list(claims.claim([Quota(9, UNBOUNDED_S)] * len(LANES), datetime.now(UTC)).jobs)

    def end(self, claimed: Claimed, error: GatewayError | None, worker: str = MAC) -> None:
        rq = EngineWorker(self.client, NAMES, name=worker, model=MODEL, post=lambda _: None)
        slot = Slot(claimed, self.queue, Ticket("r", 1, ""), datetime.now(UTC), claimed.execution_id)
        records.end(rq, slot, Ended(slot.ticket, error, Usage()), busy_with=None, resting=WorkerStatus.IDLE)

    def bury(self, worker: str = MAC) -> int:
        return reap(self.client, NAMES, worker)

    def find_expired(self) -> int:
        """As another host's worker does for one whose host is gone, too."""
        entries = self.client.zrange(self.queue.started_job_registry.key, 0, -1)
        if entries:
            self.client.zadd(self.queue.started_job_registry.key, dict.fromkeys(entries, time.time() - 1))
        return reap_expired(self.client, NAMES, [self.queue])

    @property
    def queue(self) -> SafeQueue:
        return SafeQueue(NAMES.queue(MODEL, "interactive"), connection=self.client, serializer=JobSerializer)

    @property
    def bodies(self) -> list[str]:
        return [key.decode() for key in self.client.scan_iter(f"{NAMES.bodies}*")]


def _envelope() -> Envelope:
    message = Message(role="user", parts=(TextPart(text="hello"),))
    request = GenerateRequest(id="r", model=MODEL, messages=(message,))
    return Envelope(work=Generate(request=request), gateway="gw1", attempt=1, deadline_s=time.time() + 60)


@pytest.fixture
def life(redis_client: redis.Redis, redis_url: str) -> Life:
    for worker in (MAC, AIR):
        redis_client.set(NAMES.lease(worker), "alive")
    return Life(redis_client, redis_url)


# --- whoever is left, when the worker was killed after it took the job ------------------------------------------------

_BURIALS = {"its host": Life.bury, "another host": Life.find_expired}


@pytest.mark.parametrize("by", _BURIALS)
def test_who_buries_a_worker_removes_what_it_had_taken_and_not_read(life: Life, by: str) -> None:
    life.place()
    assert len(life.claim()) == 1
    assert life.bodies
    assert _BURIALS[by](life) == 1
    assert life.bodies == []


@pytest.mark.parametrize("by", _BURIALS)
def test_a_request_that_was_left_at_a_dead_worker_leaves_no_body(life: Life, by: str) -> None:
    """Its gateway sees the worker's silence first, and has nobody to tell."""
    life.place()
    life.claim()
    assert not life.cancel()
    _BURIALS[by](life)
    assert life.bodies == []


def test_a_gateway_removes_what_a_host_that_joined_may_not(life: Life) -> None:
    """Such a host buries a worker of another, whose bodies are not its own."""
    life.client.acl_setuser(
        "member", enabled=True, nopass=True, keys=["rq:*", f"{NAMES.body_prefix('air')}*"], commands=["+@all"]
    )
    life.place()
    life.claim()
    with redis.Redis.from_url(life.url, username="member", password="x") as member:
        assert Life(member, life.url).find_expired() == 1
    assert life.bodies, "it could not"
    assert not life.cancel()
    assert life.bodies == []


def test_a_started_job_whose_worker_may_live_keeps_its_body(life: Life) -> None:
    life.place()
    life.claim()
    life.cancel()
    assert life.bodies == [NAMES.body("mac", "r", 1)]


# --- the worker lives, and could not remove it ------------------------------------------------------------------------

_ENDS = {
    "an answer": None,
    "a cancellation": RequestCancelledError("x"),
    "a refusal": WireError("x"),
    "the worker's end": WorkerLostError("x"),
}


@pytest.mark.parametrize("how", _ENDS)
@pytest.mark.parametrize("is_taken_for_dead", [False, True])
def test_a_job_whose_end_is_recorded_has_no_body(life: Life, how: str, is_taken_for_dead: bool) -> None:
    life.place()
    [claimed] = life.claim()
    if is_taken_for_dead:
        life.client.hset(Job.key_for(JOB), "status", "failed")
    life.end(claimed, _ENDS[how])
    assert life.bodies == []


def test_a_body_that_came_back_with_an_old_file_goes_with_its_job(life: Life) -> None:
    """Redis was restarted with what it had while the job waited; its worker had ended it since."""
    life.place()
    saved = {key: life.client.dump(key) for key in life.client.scan_iter()}
    [claimed] = life.claim()
    life.end(claimed, None)
    life.client.flushall()
    for key, data in saved.items():
        life.client.restore(key, 0, data)
    assert life.bodies
    [again] = life.claim()
    life.end(again, WireError("this attempt of the request has run here already"))
    assert life.bodies == []


# --- what was placed late, twice or elsewhere -------------------------------------------------------------------------


def test_a_job_that_arrives_after_its_cancellation_is_refused_with_its_body(life: Life) -> None:
    assert not life.cancel()
    life.place()
    assert life.claim() == []
    assert life.bodies == []


def test_a_job_that_is_placed_again_after_it_ran_is_refused_with_its_body(life: Life) -> None:
    """Its gateway did not hear that it had arrived."""
    life.place()
    [claimed] = life.claim()
    life.end(claimed, None)
    life.place()
    assert life.claim() == []
    assert life.bodies == []


@pytest.mark.parametrize("status", ["canceled", "failed", ""])
def test_a_job_that_somebody_else_ended_is_dropped_with_its_body(life: Life, status: str) -> None:
    life.place()
    if status:
        life.client.hset(Job.key_for(JOB), "status", status)
    else:
        life.client.delete(Job.key_for(JOB))
    assert life.claim() == []
    assert life.bodies == []


@pytest.mark.parametrize("was", [ON_MAC, NOWHERE])
def test_a_gateway_that_did_not_hear_of_its_move_removes_the_body_where_it_is(life: Life, was: Placed) -> None:
    life.place(was)
    life.move(was, ON_AIR)
    life.claim(AIR)
    life.client.hset(Job.key_for(JOB), "status", "failed")
    life.cancel(believed_at=was)
    assert life.bodies == []


def test_who_takes_a_job_whose_body_lies_for_another_host_removes_that(life: Life) -> None:
    """A host that found the worker dead gave its list away, and no gateway was left to take the body along."""
    life.place()
    life.bury()
    life.client.hset(Job.key_for(JOB), "origin", NAMES.worker_queue(MODEL, AIR, "interactive"))
    life.client.lmove(_SHARED_LIST, queue_key(NAMES.worker_queue(MODEL, AIR, "interactive")), "LEFT", "RIGHT")
    [claimed] = life.claim(AIR)
    assert claimed.body is None
    assert life.bodies == []
