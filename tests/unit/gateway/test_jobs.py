"""What the gateway writes is what RQ itself would have written, and RQ reads it."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
import rq
from redis.exceptions import ResponseError
from rq import Queue
from rq.job import Job
from rq.registry import CanceledJobRegistry
from rq.utils import utcparse

from gateway.dispatch.facts import Placed
from gateway.dispatch.jobs import (
    RQ_VERSION,
    JobQueue,
    JobState,
    Placement,
    WorkerGoneError,
    job_fields,
    job_id,
    queue_key,
)
from gateway.dispatch.presence import away_error
from gateway.parts import connect_broker
from shared import keys, wire
from shared.config import Settings
from shared.errors import BrokerUnavailableError, OverloadedError
from shared.keys import host_of
from shared.messages import Message, TextPart
from shared.redis_server import RedisServer
from shared.request import End, GenerateRequest
from shared.work import Count, Envelope, Generate, job_subject
from tests.support.names import NAMES
from tests.support.sealed import KEYRING, control_seal

WORKER = "mac.m.e1"
HERE = Placed(lane="interactive", worker=WORKER)
LIST, RECORDS = NAMES.worker_queue("m", WORKER, "interactive"), NAMES.queue("m", "interactive")
Scenario = Callable[[JobQueue, redis.asyncio.Redis], Awaitable[None]]


def envelope(request_id: str = "req_1", *, attempt: int = 1, words: str = "hello", patience_s: float = 60) -> Envelope:
    message = Message(role="user", parts=(TextPart(text=words),))
    request = GenerateRequest(id=request_id, model="m", messages=(message,))
    return Envelope(work=Generate(request=request), gateway="gw1", attempt=attempt, deadline_s=time.time() + patience_s)


def work(request_id: str, place: Placed = HERE) -> Placement:
    return Placement(request_id=request_id, attempt=1, model="m", place=place)


@pytest.fixture(autouse=True)
def lease(redis_client: redis.Redis) -> None:
    """The worker that jobs are given to lives."""
    redis_client.set(NAMES.lease(WORKER), "alive")


@pytest.fixture
def play(redis_url: str) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        async def main() -> None:
            client, subscriber = connect_broker(Settings(redis_url=redis_url))
            jobs = JobQueue(client, NAMES, KEYRING)
            try:
                await scenario(jobs, client)
            finally:
                await jobs.settle(2)
                await client.aclose()
                await subscriber.aclose()

        asyncio.run(main())

    return run


def fetch(client: redis.Redis, request_id: str = "req_1") -> Job:
    return Job.fetch(job_id(request_id, 1), connection=client, serializer=wire.JobSerializer)


def test_the_internals_relied_on_are_those_of_this_version() -> None:
    assert rq.VERSION.startswith(RQ_VERSION + ".")
    assert Queue.redis_queue_namespace_prefix + "m" == queue_key("m")
    assert Job.key_for("x") == "rq:job:x"
    assert CanceledJobRegistry.key_template == "rq:canceled:{0}"


def test_a_job_is_what_rq_itself_would_have_written(redis_client: redis.Redis) -> None:
    arguments = ["req_1", 1, "signature"]
    queue = Queue("m", connection=redis_client, serializer=wire.JobSerializer)
    queue.enqueue_call(
        keys.JOB_FUNCTION,
        args=arguments,
        timeout=-1,
        result_ttl=keys.RESULT_TTL_S,
        failure_ttl=keys.FAILURE_TTL_S,
        description="generate m",
        job_id="req_1-1",
    )
    theirs: Any = redis_client.hgetall(Job.key_for("req_1-1"))
    data = zlib.compress(wire.JobSerializer.dumps((keys.JOB_FUNCTION, None, arguments, {})))
    redis_client.hset("ours", mapping=job_fields(data, queue="m", description="generate m", now=datetime.now(UTC)))
    ours: Any = redis_client.hgetall("ours")
    for times in (b"created_at", b"enqueued_at"):
        assert utcparse(ours.pop(times).decode()) >= utcparse(theirs.pop(times).decode())
    assert ours == theirs


def test_rq_reads_the_job_back(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    sent = envelope()

    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(sent, HERE)

    play(scenario)
    queue = Queue(LIST, connection=redis_client, serializer=wire.JobSerializer)
    assert queue.job_ids == ["req_1-1"]
    assert Queue.all(redis_client) == [queue]
    job = fetch(redis_client)
    body = redis_client.get(NAMES.body("mac", "req_1", 1))
    assert isinstance(body, bytes)
    assert wire.decode_envelope(body) == sent
    assert job.func_name == keys.JOB_FUNCTION
    request_id, attempt, signature, kind = job.args
    assert (request_id, attempt, kind) == ("req_1", 1, "generate")
    assert KEYRING.of_worker(WORKER).is_signed(job_subject("generate", "req_1-1"), body, signature)
    assert (job.result_ttl, job.failure_ttl) == (keys.RESULT_TTL_S, keys.FAILURE_TTL_S)
    assert (job.get_status(), job.origin) == ("queued", LIST)
    assert job.enqueued_at is not None


def test_nothing_of_the_prompt_is_in_the_job(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(envelope(words="a secret plan"), HERE)

    play(scenario)
    stored = redis_client.hgetall(Job.key_for("req_1-1"))
    assert stored[b"description"] == b"generate m"  # type: ignore[index]
    assert "secret" not in fetch(redis_client).get_call_string()  # type: ignore[operator]
    assert not any(b"secret" in value for value in stored.values())  # type: ignore[union-attr]


def test_body_and_job_both_expire_when_nobody_takes_them(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(envelope(patience_s=2 * keys.BODY_TTL_S), HERE)

    play(scenario)
    for key in (NAMES.body("mac", "req_1", 1), Job.key_for("req_1-1")):
        assert keys.BODY_TTL_S < redis_client.ttl(key) <= 2 * keys.BODY_TTL_S + 1  # type: ignore[operator]


def test_a_submission_is_one_round_trip(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    async def scenario(jobs: JobQueue, client: redis.asyncio.Redis) -> None:
        await jobs.submit(envelope("req_0"), HERE)
        before = redis_client.info("stats")["total_commands_processed"]  # type: ignore[index]
        reads_before = redis_client.info("stats")["total_reads_processed"]  # type: ignore[index]
        await jobs.submit(envelope("req_1"), HERE)
        stats: Any = redis_client.info("stats")
        assert stats["total_reads_processed"] - reads_before == 2  # the submission, and this INFO
        assert stats["total_commands_processed"] - before > 4

    play(scenario)


def test_a_queued_job_is_cancelled_as_rq_itself_does_it(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        for number in (1, 2):
            await jobs.submit(envelope(f"req_{number}"), HERE)
        assert await jobs.cancel(work("req_1"), "the client left")

    play(scenario)
    fetch(redis_client, "req_2").cancel()
    ours, theirs = fetch(redis_client, "req_1"), fetch(redis_client, "req_2")
    assert ours.get_status() == theirs.get_status() == "canceled"
    for queue, job in ((RECORDS, "req_1-1"), (LIST, "req_2-1")):  # RQ's own knows nothing of a model's records
        registry = CanceledJobRegistry(queue, connection=redis_client, serializer=wire.JobSerializer)
        assert registry.get_job_ids(cleanup=False) == [job]
    assert redis_client.llen(queue_key(LIST)) == 0
    assert redis_client.get(NAMES.ended("req_1")) == b"1"
    assert not redis_client.exists(NAMES.body("mac", "req_1", 1))


def test_a_redis_that_is_full_is_called_so_and_a_cancellation_makes_room(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(envelope("req_1"), HERE)
        redis_client.config_set("maxmemory", 1)
        with pytest.raises(OverloadedError, match="could not be queued: Redis is full") as caught:
            await jobs.submit(envelope("req_2"), HERE)
        assert caught.value.retry_after_s == 5
        assert await jobs.cancel(work("req_1"), "the client left")

    play(scenario)
    assert redis_client.llen(queue_key(LIST)) == 0
    assert not redis_client.exists(NAMES.body("mac", "req_1", 1), NAMES.body("mac", "req_2", 1))


def test_cancelled_jobs_do_not_pile_up(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    long_ago = time.time() - 2 * keys.ENDED_TTL_S
    redis_client.zadd(f"rq:canceled:{RECORDS}", {"req_old-1": long_ago})

    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(envelope(), HERE)
        await jobs.cancel(work("req_1"), "the client left")

    play(scenario)
    assert redis_client.zrange(f"rq:canceled:{RECORDS}", 0, -1) == [b"req_1-1"]
    assert 0 < redis_client.ttl(Job.key_for("req_1-1")) <= keys.ENDED_TTL_S  # type: ignore[operator]


def test_a_running_job_is_left_to_its_worker_which_is_told(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(envelope(), HERE)
        redis_client.lpop(queue_key(LIST))
        redis_client.hset(Job.key_for("req_1-1"), mapping={"status": "started", "worker_name": "host.m.e1"})
        with redis_client.pubsub(ignore_subscribe_messages=True) as listener:
            listener.subscribe(NAMES.worker_channel("host.m.e1"))
            assert listener.get_message(timeout=5) is None  # the subscription
            assert not await jobs.cancel(work("req_1"), "the client left")
            message: Any = listener.get_message(timeout=5)
            assert wire.decode(control_seal("host.m.e1").open(message["data"])) == End(
                request_id="req_1", attempt=1, reason="the client left"
            )

    play(scenario)
    assert fetch(redis_client).get_status() == "started"
    assert redis_client.exists(NAMES.ended("req_1"), NAMES.body("mac", "req_1", 1)) == 2
    assert not redis_client.exists(f"rq:canceled:{RECORDS}")


@pytest.mark.parametrize("worker", [WORKER, ""])
def test_counting_is_a_job_in_the_lane_of_its_kind_and_signed_as_that(
    play: Callable[[Scenario], None], redis_client: redis.Redis, worker: str
) -> None:
    asked = envelope()
    sent = replace(asked, work=Count(request=asked.request))
    host, names = host_of(worker), (NAMES.worker_queue("m", worker, "count"), NAMES.queue("m", "count"))

    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(sent, Placed(lane="count", worker=worker))

    play(scenario)
    assert redis_client.lrange(queue_key(names[0] if worker else names[1]), 0, -1) == [b"req_1-1"]
    body: Any = redis_client.get(NAMES.body(host, "req_1", 1))
    assert wire.decode_envelope(body) == sent
    *_, signature, kind = fetch(redis_client).args
    assert kind == "count"
    assert KEYRING.of(host).is_signed(job_subject("count", "req_1-1"), body, signature)
    assert not KEYRING.of(host).is_signed(job_subject("generate", "req_1-1"), body, signature)


def test_states_say_what_rq_knows(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(envelope("req_1"), HERE)
        await jobs.submit(envelope("req_2"), HERE)
        redis_client.hset(Job.key_for("req_2-1"), mapping={"status": "started", "worker_name": "host.m.e1"})
        assert await jobs.states(["req_1-1", "req_2-1", "req_3-1"]) == [
            JobState(status="queued", worker=""),
            JobState(status="started", worker="host.m.e1"),
            JobState(status="", worker=""),
        ]

    play(scenario)


def test_a_burst_of_requests_is_placed_over_few_connections(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        await asyncio.gather(*(jobs.submit(envelope(f"req_{number}"), HERE) for number in range(300)))
        assert redis_client.llen(f"rq:queue:{LIST}") == 300
        assert len(redis_client.client_list()) < 50

    play(scenario)


def test_without_redis_every_call_says_so(redis_server: RedisServer) -> None:
    async def main() -> None:
        client, subscriber = connect_broker(Settings(redis_url=redis_server.url))
        jobs = JobQueue(client, NAMES, KEYRING)
        redis_server.process.kill()
        redis_server.process.wait()
        for call in (
            jobs.submit(envelope(), HERE),
            jobs.cancel(work("req_1"), "the client left"),
            jobs.states(["req_1-1"]),
            jobs.request_load("m"),
        ):
            with pytest.raises(BrokerUnavailableError) as raised:
                await call
            assert raised.value.retryable
            assert raised.value.retry_after_s
        await client.aclose()
        await subscriber.aclose()

    asyncio.run(main())


def test_redis_that_is_silent_is_named_in_words_with_a_time_to_come_back() -> None:
    error = away_error("the request could not be queued", TimeoutError())
    assert error.message == "the request could not be queued: Redis does not answer"
    assert error.retry_after_s
    assert away_error("x", OSError("/tmp/r.sock")).message == "x: Redis cannot be reached"


def test_what_redis_itself_says_is_for_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    said = "WRONGTYPE Operation against a key holding the wrong kind of value"
    error = away_error("the request could not be queued", ResponseError(said))
    assert error.message == "the request could not be queued: Redis refuses it, and the gateway's log says why"
    assert said in caplog.text


def test_a_cancellation_waits_for_redis_to_come_back(redis_server: RedisServer) -> None:
    async def main() -> None:
        client, subscriber = connect_broker(Settings(redis_url=redis_server.url))
        jobs = JobQueue(client, NAMES, KEYRING)
        redis_server.process.kill()
        redis_server.process.wait()
        jobs.cancel_soon(work("req_1"), "the client left")
        await asyncio.sleep(0)
        await asyncio.to_thread(redis_server.restart)
        await jobs.settle(2)
        assert await client.get(NAMES.ended("req_1")) == b"1"
        await client.aclose()
        await subscriber.aclose()

    asyncio.run(main())


def test_a_placed_job_rings_its_worker_and_is_counted(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        assert [await jobs.submit(envelope(f"req_{number}"), HERE) for number in range(3)] == [1, 2, 3]

    play(scenario)
    assert redis_client.lrange(NAMES.bell(WORKER), 0, -1) == [b"1"]
    assert redis_client.lrange(queue_key(LIST), 0, -1) == [b"req_0-1", b"req_1-1", b"req_2-1"]


def test_a_job_for_a_worker_that_is_gone_is_not_written(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    redis_client.delete(NAMES.lease(WORKER))

    async def scenario(jobs: JobQueue, _: Any) -> None:
        with pytest.raises(WorkerGoneError):
            await jobs.submit(envelope(), HERE)

    play(scenario)
    assert not list(redis_client.scan_iter("*req_1*"))
    assert not redis_client.exists(queue_key(LIST))


@pytest.mark.parametrize("was", [HERE, Placed(lane="interactive")])
def test_a_waiting_job_moves_with_its_body_to_another_worker(
    play: Callable[[Scenario], None], redis_client: redis.Redis, was: Placed
) -> None:
    other = "air.m.e1"
    redis_client.set(NAMES.lease(other), "alive")
    sent = envelope()

    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(sent, was)
        assert await jobs.move(sent, was, Placed(lane="interactive", worker=other)) == 1

    play(scenario)
    new_list = NAMES.worker_queue("m", other, "interactive")
    assert redis_client.lrange(queue_key(new_list), 0, -1) == [b"req_1-1"]
    assert not redis_client.exists(queue_key(LIST), queue_key(RECORDS))
    assert [key.decode() for key in redis_client.scan_iter("*:req:*")] == [NAMES.body("air", "req_1", 1)]
    assert fetch(redis_client).origin == new_list
    assert redis_client.llen(NAMES.bell(other)) == 1


@pytest.mark.parametrize("was", [HERE, Placed(lane="interactive")])
def test_a_cancellation_that_comes_while_its_job_moves_leaves_nothing(
    play: Callable[[Scenario], None], redis_client: redis.Redis, was: Placed
) -> None:
    """It knows only where the job was."""
    redis_client.set(NAMES.lease("air.m.e1"), "alive")

    async def scenario(jobs: JobQueue, _: Any) -> None:
        sent = envelope()
        await jobs.submit(sent, was)
        place = Placed(lane="interactive", worker="air.m.e1", prospect=None)
        assert await jobs.move(sent, was, place) == 1
        redis_client.hset(NAMES.placed("air.m.e1"), "req_1-1", "noted")
        assert await jobs.cancel(work("req_1", was), "the client left")

    play(scenario)
    assert list(redis_client.scan_iter(NAMES.bodies + "*")) == []
    assert not redis_client.hexists(NAMES.placed("air.m.e1"), "req_1-1")
    assert redis_client.llen(queue_key(NAMES.worker_queue("m", "air.m.e1", "interactive"))) == 0


def test_a_job_that_a_reaper_has_moved_is_still_found(
    play: Callable[[Scenario], None], redis_client: redis.Redis
) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        for number in (1, 2):
            await jobs.submit(envelope(f"req_{number}"), HERE)
            redis_client.lmove(queue_key(LIST), queue_key(RECORDS), "LEFT", "RIGHT")
            redis_client.hset(Job.key_for(f"req_{number}-1"), "origin", RECORDS)
        assert await jobs.cancel(work("req_1"), "the client left")
        assert await jobs.move(envelope("req_2"), HERE, HERE) == 3

    play(scenario)
    assert redis_client.lrange(queue_key(LIST), 0, -1) == [b"req_2-1"]
    assert not redis_client.exists(queue_key(RECORDS))


def test_a_job_that_was_claimed_is_not_moved(play: Callable[[Scenario], None], redis_client: redis.Redis) -> None:
    async def scenario(jobs: JobQueue, _: Any) -> None:
        await jobs.submit(envelope(), HERE)
        redis_client.lpop(queue_key(LIST))
        assert await jobs.move(envelope(), HERE, HERE) == 0

    play(scenario)
    assert not redis_client.exists(queue_key(LIST))
