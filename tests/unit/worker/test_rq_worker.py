"""Claims, heartbeats, recovery and records are exact, and what they rely on in RQ is as it was."""

from __future__ import annotations

import inspect
import itertools
import multiprocessing
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
from rq import Queue
from rq.executions import Execution
from rq.job import Callback, Job, JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import utcformat
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from shared import keys
from shared.clock import RedisClock
from shared.errors import RequestCancelledError, WireError, WorkerLostError
from shared.events import Usage
from shared.notes import Note, read_note
from shared.registry import ModelSpec
from shared.request import PRIORITIES
from shared.wire import JobSerializer
from shared.work import LANES, LANES_BESIDE
from shared.worker_metrics import FIGURES
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.worker import MODEL, QUEUE, worker_settings
from worker.__main__ import Worker
from worker.rq import worker as rq_worker
from worker.rq.claims import Backlog, Claimed, Claims, Held, move_jobs
from worker.rq.control import ControlLoop
from worker.rq.gate import UNBOUNDED_S, Quota
from worker.rq.outcomes import Outcomes
from worker.rq.patience import Patience
from worker.rq.reaping import reap, reap_expired
from worker.rq.records import Slot
from worker.rq.recovery import Recovery
from worker.rq.safe_job import SafeJob, SafeQueue, ticket_of
from worker.rq.waiter import BellWaiter, Rung
from worker.rq.worker import EngineWorker
from worker.serving.bodies import Body
from worker.serving.reports import Ended
from worker.serving.ticket import Ticket
from worker.status import StatusPipe

ME, DEAD = "host.tiny.e1", "host.tiny.e0"
OWN = NAMES.worker_queue(MODEL, ME, "interactive")
KEY = f"rq:queue:{OWN}"


def now() -> datetime:
    return datetime.now(UTC)


def enqueue(client: redis.Redis, *names: str, queue: str = OWN) -> None:
    rq_queue = Queue(queue, connection=client, serializer=JobSerializer)
    for name in names:
        rq_queue.enqueue_call(
            keys.JOB_FUNCTION,
            args=[name, 1, "00", "generate"],
            job_id=name,
            description="x",
            result_ttl=60,
            failure_ttl=60,
        )


def claims_of(client: redis.Redis, worker: str = ME, ttl_s: float = 6) -> Claims:
    return Claims(client, NAMES, MODEL, worker, clock=RedisClock(), execution_ttl_s=ttl_s, worker_ttl_s=15)


def claim(claims: Claims, most: int, at: datetime | None = None) -> list[Claimed]:
    """As many as that, of any class."""
    quota = Quota(most, UNBOUNDED_S)
    return list(claims.claim([quota] * len(LANES), at or now()).jobs)


def ids(claimed: list[Claimed]) -> list[str]:
    return [job.job_id for job in claimed]


def queue_of(client: redis.Redis, name: str = QUEUE) -> SafeQueue:
    return SafeQueue(name, connection=client, serializer=JobSerializer)


# --- RQ is as it was ------------------------------------------------------------------------------------------------


def test_rqs_internals_are_those_that_were_read() -> None:
    """When this fails RQ has changed: read `RQ_INTERNALS` and the code that names it again, then pin the new one."""
    assert rq.__version__.startswith(rq_worker.RQ_VERSION + ".")
    assert len(rq_worker.RQ_INTERNALS) == len(set(rq_worker.RQ_INTERNALS))
    signatures: dict[Any, list[str]] = {
        BaseWorker.set_state: ["self", "state", "pipeline"],
        BaseWorker.set_current_job_id: ["self", "job_id", "pipeline"],
        BaseWorker.increment_successful_job_count: ["self", "pipeline"],
        BaseWorker.increment_failed_job_count: ["self", "pipeline"],
        BaseWorker.increment_total_working_time: ["self", "job_execution_time", "pipeline"],
        BaseWorker.register_birth: ["self"],
        BaseWorker.register_death: ["self"],
        BaseWorker.request_stop: ["self", "signum", "frame"],
        BaseWorker.handle_payload: ["self", "message"],
        Job.restore: ["self", "raw_data"],
        Job.cleanup: ["self", "ttl", "pipeline", "remove_from_queue"],
        Job.set_status: ["self", "status", "pipeline"],
        Job.send_webhooks: ["self", "status", "exc_string"],
        Job._handle_success: [
            "self",
            "result_ttl",
            "pipeline",
            "worker_name",
            "execution_id",
            "execution_started_at",
            "execution_ended_at",
        ],
        Job._handle_failure: [
            "self",
            "exc_string",
            "pipeline",
            "worker_name",
            "execution_id",
            "execution_started_at",
            "execution_ended_at",
        ],
        Execution.__init__: ["self", "id", "job_id", "connection", "worker_name"],
        Execution.create: ["job", "ttl", "pipeline", "worker_name"],
        Execution.delete: ["self", "job", "pipeline"],
        CanceledJobRegistry.add: ["self", "job", "ttl", "pipeline", "xx"],
        FinishedJobRegistry.cleanup: ["self", "timestamp", "exception_handlers"],
        FailedJobRegistry.cleanup: ["self", "timestamp", "exception_handlers"],
    }
    for function, names in signatures.items():
        assert list(inspect.signature(function).parameters) == names, function
    callbacks = ("_success_callback_name", "_failure_callback_name", "_stopped_callback_name")
    for name in ("_status", "_result", "_dependency_ids", *callbacks):
        assert name in inspect.getsource(Job.__init__)


def test_rqs_keys_are_those_that_the_scripts_write() -> None:
    assert (Job.redis_job_namespace_prefix, Queue.redis_queue_namespace_prefix) == ("rq:job:", "rq:queue:")
    assert (StartedJobRegistry.key_template, BaseWorker.redis_worker_namespace_prefix) == ("rq:wip:{0}", "rq:worker:")
    assert (Queue.redis_queues_keys, WORKERS_SUSPENDED) == ("rq:queues", "rq:suspended")
    assert (REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY) == ("rq:workers", "rq:workers:%s")
    moment = datetime(2026, 1, 2, 3, 4, 5, 67, UTC)
    assert utcformat(moment) == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_claim_writes_what_rqs_own_worker_would(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "stock", "ours")
    job = Job.fetch("stock", connection=redis_client, serializer=JobSerializer)
    with redis_client.pipeline() as pipe:
        stock = Execution.create(job, 6, pipe, "stock-worker")
        job.prepare_for_execution("stock-worker", pipe)
        pipe.execute()
    [ours] = claim(claims_of(redis_client), 2)
    theirs_hash = redis_client.hgetall("rq:job:stock")
    ours_hash = redis_client.hgetall("rq:job:ours")
    assert theirs_hash.keys() == ours_hash.keys()
    assert ours_hash[b"status"] == theirs_hash[b"status"] == b"started"
    theirs_execution = redis_client.hgetall(stock.key)
    ours_execution = redis_client.hgetall(f"rq:execution:ours:{ours.execution_id}")
    assert theirs_execution.keys() == ours_execution.keys()
    assert Execution.fetch(ours.execution_id, "ours", redis_client).worker_name == ME
    for queue, job_id in ((OWN, "stock"), (QUEUE, "ours")):
        registry = StartedJobRegistry(queue, connection=redis_client)
        assert [job for job, _ in registry.get_job_and_execution_ids(cleanup=False)] == [job_id]


# --- claims ---------------------------------------------------------------------------------------------------------


def own(priority: str, worker: str = ME) -> str:
    return NAMES.worker_queue(MODEL, worker, priority)


def test_the_highest_class_is_claimed_first_and_each_class_in_its_order(redis_client: redis.Redis) -> None:
    for number, priority in enumerate(reversed(PRIORITIES * 2)):
        enqueue(redis_client, f"{priority}{number}", queue=own(priority))
    claimed = claim(claims_of(redis_client), 8)
    assert ids(claimed) == [
        *("interactive3", "interactive7", "subagent2", "subagent6", "side1", "side5", "batch0", "batch4"),
    ]
    assert [job.priority for job in claimed[::2]] == list(PRIORITIES)
    assert {job.queue for job in claimed} == {NAMES.queue(MODEL, priority) for priority in PRIORITIES}
    assert redis_client.hget("rq:job:batch0", "origin") == NAMES.queue(MODEL, "batch").encode()


def test_no_more_is_claimed_than_each_class_has_places_for(redis_client: redis.Redis) -> None:
    for priority in PRIORITIES:
        enqueue(redis_client, *(f"{priority}{number}" for number in range(3)), queue=own(priority))
    most = [Quota(count, UNBOUNDED_S) for count in (2, 4, 4, 4, *[0] * len(LANES_BESIDE))]
    taken = claims_of(redis_client).claim(most, now())
    assert ids(list(taken.jobs)) == ["interactive0", "interactive1", "subagent0", "subagent1"]
    assert taken.backlog.waiting == (1, 1, 3, 3)


def test_what_is_done_beside_the_batch_has_a_quota_of_its_own(redis_client: redis.Redis) -> None:
    for lane in ("interactive", "count"):
        enqueue(redis_client, *(f"{lane}{number}" for number in range(4)), queue=own(lane))
    none, some = Quota(0, 0), Quota(3, UNBOUNDED_S)
    beside = [some] * len(LANES_BESIDE)
    taken = claims_of(redis_client).claim([none, none, none, none, *beside], now())
    assert ids(list(taken.jobs)) == ["count0", "count1", "count2"], "full places and long prompts hold nothing back"
    assert [(job.lane, job.priority, job.queue) for job in taken.jobs[:1]] == [
        ("count", None, NAMES.queue(MODEL, "count"))
    ]
    assert (taken.backlog.waiting, taken.backlog.beside["count"]) == ((4, 0, 0, 0), 1)
    taken = claims_of(redis_client).claim([some, some, some, some, *beside], now())
    assert ids(list(taken.jobs)) == ["interactive0", "interactive1", "interactive2", "count3"]


def test_no_more_is_claimed_than_can_be_begun_soon(redis_client: redis.Redis) -> None:
    for name, size in (("a-1", 40), ("b-1", 70), ("c-1", 10)):
        enqueue(redis_client, name)
        redis_client.set(NAMES.body("host", name[0], 1), bytes(size))
    quotas = [Quota(9, 1.0)] * len(LANES)
    per_byte = 0.01
    assert ids(list(claims_of(redis_client).claim(quotas, now(), s_per_byte=per_byte).jobs)) == ["a-1", "b-1"]
    assert ids(list(claims_of(redis_client).claim([Quota(9, 0)] * len(LANES), now()).jobs)) == []
    assert ids(list(claims_of(redis_client).claim(quotas, now(), s_per_byte=per_byte).jobs)) == ["c-1"]


def test_what_was_predicted_of_a_prefill_counts_for_more_than_the_size_of_its_body(redis_client: redis.Redis) -> None:
    """Of a long conversation only the end is computed."""
    for name, seconds in (("a-1", 0.4), ("b-1", 0.7), ("c-1", 0.1)):
        enqueue(redis_client, name)
        redis_client.set(NAMES.body("host", name[0], 1), bytes(1000))
        redis_client.hset(NAMES.placed(ME), name, Note(lane="interactive", prefill_s=seconds, score=1.0).text())
    taken = claims_of(redis_client).claim([Quota(9, 1.0)] * len(LANES), now(), s_per_byte=0.01)
    assert [(job.job_id, job.prefill_s) for job in taken.jobs] == [("a-1", 0.4), ("b-1", 0.7)]
    notes = {job: read_note(note.decode()) for job, note in redis_client.hgetall(NAMES.placed(ME)).items()}
    assert [notes[job].is_claimed for job in (b"a-1", b"b-1", b"c-1")] == [True, True, False]


def test_what_is_left_is_counted_with_all_that_was_ever_put_there(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "a", "b", "c")
    redis_client.hset(NAMES.placed(ME), "v", 7)
    assert claims_of(redis_client).claim([Quota(1, UNBOUNDED_S)] * len(LANES), now()).backlog == Backlog(
        (2, 0, 0, 0), 7, dict.fromkeys(LANES_BESIDE, 0)
    )


def test_a_claimed_job_brings_its_body(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "r-1", "t-1")
    redis_client.set(NAMES.body("host", "r", 1), b"\x92body")
    jobs = claim(claims_of(redis_client), 3)
    assert [(job.body, job.body_bytes) for job in jobs] == [(Body(data=b"\x92body"), 5), (None, 0)]


@pytest.mark.parametrize(("mark", "is_started"), [(b"1", True), (b"2", False), (b"3", False), (b"all", False)])
def test_an_attempt_that_has_ended_is_not_claimed(redis_client: redis.Redis, mark: bytes, is_started: bool) -> None:
    enqueue(redis_client, "r-2")
    redis_client.set(NAMES.ended("r"), mark)
    assert bool(claim(claims_of(redis_client), 1)) == is_started
    assert redis_client.llen(KEY) == 0
    if not is_started:
        assert redis_client.hget("rq:job:r-2", "status") == b"canceled"
        assert 0 < redis_client.ttl("rq:job:r-2") <= 60


def test_a_job_that_is_pushed_again_runs_once(redis_client: redis.Redis) -> None:
    """Whoever can write to Redis can copy a signed job; on another worker's list, too."""
    enqueue(redis_client, "r-1")
    written = redis_client.hgetall("rq:job:r-1")
    assert ids(claim(claims_of(redis_client), 1)) == ["r-1"]
    redis_client.hset("rq:job:r-1", mapping=written)
    redis_client.rpush(KEY, "r-1")
    redis_client.rpush(f"rq:queue:{own('interactive', DEAD)}", "r-1")
    assert claim(claims_of(redis_client), 1) == claim(claims_of(redis_client, DEAD), 1) == []
    assert 0 < redis_client.ttl(NAMES.run_once("r-1")) <= 3600


def test_a_big_body_is_left_to_a_round_trip_of_its_own(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "r-1", "s-1")
    redis_client.set(NAMES.body("host", "r", 1), bytes(200_000))
    redis_client.set(NAMES.body("host", "s", 1), b"small")
    assert [job.body for job in claim(claims_of(redis_client), 2)] == [None, Body(data=b"small")]


def test_executions_of_one_claim_have_names_of_their_own(redis_client: redis.Redis) -> None:
    enqueue(redis_client, *(f"j{number}" for number in range(20)))
    claimed = claim(claims_of(redis_client), 20)
    assert len({job.execution_id for job in claimed}) == 20
    assert {len(job.execution_id) for job in claimed} == {32}


@pytest.mark.parametrize("status", ["canceled", "stopped", "finished", "failed", "started", None])
def test_only_queued_jobs_start(redis_client: redis.Redis, status: str | None) -> None:
    enqueue(redis_client, "j")
    if status is None:
        redis_client.delete("rq:job:j")
    else:
        redis_client.hset("rq:job:j", "status", status)
    assert claim(claims_of(redis_client), 5) == []
    assert redis_client.llen(KEY) == 0


def expire_all(client: redis.Redis) -> None:
    """As if nobody had beaten for these jobs for long."""
    key = f"rq:wip:{QUEUE}"
    client.zadd(key, dict.fromkeys(client.zrange(key, 0, -1), 1.0))


@pytest.mark.parametrize("ahead_s", [-60, 60])
def test_machines_whose_clocks_differ_do_not_take_each_other_for_dead(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    enqueue(redis_client, "j")
    elsewhere = datetime.fromtimestamp(time.time() + ahead_s, UTC)
    claims = claims_of(redis_client)
    held = [Held(job.queue, job.job_id, job.execution_id) for job in claim(claims, 1, elsewhere)]
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    for _ in ("claimed", "beaten"):
        real = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda real=real: real() - ahead_s)
            assert reap_expired(redis_client, NAMES, [queue_of(redis_client)]) == 0
        assert redis_client.zscore(f"rq:wip:{QUEUE}", f"j:{held[0].execution_id}") == pytest.approx(real() + 6, abs=2)
        claims.beat(held, elsewhere)


def test_a_beat_keeps_jobs_alive_and_says_what_became_of_them(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "a", "b", "c")
    claims = claims_of(redis_client)
    held = [Held(job.queue, job.job_id, job.execution_id) for job in claim(claims, 3)]
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    redis_client.hset("rq:job:b", "status", "canceled")
    redis_client.delete("rq:job:c")
    expire_all(redis_client)
    pulse = claims.beat(held, now())
    assert pulse is not None
    assert (pulse.is_suspended, pulse.statuses) == (False, ("started", "canceled", ""))
    assert redis_client.zscore(f"rq:wip:{QUEUE}", f"a:{held[0].execution_id}") == pytest.approx(time.time() + 6, abs=2)
    assert redis_client.zscore(f"rq:wip:{QUEUE}", f"b:{held[1].execution_id}") == 1
    assert not redis_client.exists("rq:job:c")
    assert 0 < redis_client.ttl(f"rq:worker:{ME}") <= 15


def test_a_beat_finds_a_cancellation_that_nobody_heard(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "a-1", "b-1", "c-2", "d-2")
    claims = claims_of(redis_client)
    held = [Held(job.queue, job.job_id, job.execution_id) for job in claim(claims, 4)]
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    redis_client.set(NAMES.ended("b"), 1)
    redis_client.set(NAMES.ended("c"), 1)
    redis_client.set(NAMES.ended("d"), 2)
    pulse = claims.beat(held, now())
    assert pulse is not None
    assert pulse.statuses == ("started", "canceled", "started", "canceled"), "a later attempt has not ended"


def test_a_worker_without_work_asks_little_of_redis(redis_client: redis.Redis) -> None:
    """Commands within scripts count, too; each of them is asked each second, or every other, by every worker."""
    claims, queues = claims_of(redis_client), [queue_of(redis_client, NAMES.queue(MODEL, p)) for p in PRIORITIES]
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    for once in (lambda: claims.beat([], now()), lambda: reap_expired(redis_client, NAMES, queues)):
        once()  # scripts are loaded
    redis_client.config_resetstat()
    assert claims.beat([], now()) is not None
    assert reap_expired(redis_client, NAMES, queues) == 0
    assert redis_client.info("stats")["total_commands_processed"] <= 8


@pytest.mark.parametrize("kind", ["string", "list", "zset"])
def test_an_idle_beat_makes_the_counter_of_a_wrong_type_anew(redis_client: redis.Redis, kind: str) -> None:
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    write = {
        "string": lambda key: redis_client.set(key, "x"),
        "list": lambda key: redis_client.rpush(key, "x"),
        "zset": lambda key: redis_client.zadd(key, {"x": 1}),
    }
    write[kind](NAMES.placed(ME))
    pulse = claims_of(redis_client).beat([], now())
    assert pulse is not None
    assert (pulse.backlog.placed, redis_client.exists(NAMES.placed(ME))) == (0, 0)


@pytest.mark.parametrize("value", ["9" * 5000, "-7", "inf", "nan", "x", "1.5"])
def test_a_counter_that_nobody_of_ours_wrote_counts_for_nothing(redis_client: redis.Redis, value: str) -> None:
    """Neither in a claim nor in a beat: a worker would end over an answer that is cut short by it."""
    enqueue(redis_client, "j")
    redis_client.hset(NAMES.placed(ME), "v", value)
    claims = claims_of(redis_client)
    [job] = claim(claims, 1)
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    pulse = claims.beat([Held(job.queue, job.job_id, job.execution_id)], now())
    assert pulse is not None
    assert pulse.backlog.placed == 0


def test_a_status_that_is_no_text_ends_its_job_alone(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "a", "b")
    claims = claims_of(redis_client)
    held = [Held(job.queue, job.job_id, job.execution_id) for job in claim(claims, 2)]
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    redis_client.hset("rq:job:a", "status", b"\xff\xfe")
    pulse = claims.beat(held, now())
    assert pulse is not None
    assert pulse.statuses[1] == "started" != pulse.statuses[0]


def test_what_was_of_a_wrong_type_is_named(redis_client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    redis_client.set(NAMES.placed(ME), "x")
    redis_client.rpush("rq:queues", "x")
    claims_of(redis_client).claim([Quota(0, 0.0)] * len(LANES), now())
    for key, kind in ((NAMES.placed(ME), "a string instead of a hash"), ("rq:queues", "a list instead of a set")):
        assert f"{key} held {kind}" in caplog.text


def test_an_idle_worker_is_not_forgotten_and_hears_that_it_is_suspended(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is renewed well before it ends, not with every beat."""
    real, passed_s = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed_s)
    claims = claims_of(redis_client)
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    for step in range(12):
        passed_s = float(step)
        pulse = claims.beat([], now())
        assert pulse is not None
        assert not pulse.is_suspended
        redis_client.expire(f"rq:worker:{ME}", redis_client.ttl(f"rq:worker:{ME}") - 1)  # a second goes by
        assert redis_client.ttl(f"rq:worker:{ME}") >= 9
    redis_client.set("rq:suspended", 1)
    pulse = claims.beat([], now())
    assert pulse is not None
    assert pulse.is_suspended


def test_a_beat_counts_what_waits(redis_client: redis.Redis) -> None:
    claims = claims_of(redis_client)
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    enqueue(redis_client, "a", "b", queue=NAMES.worker_queue(MODEL, ME, "batch"))
    pulse = claims.beat([], now())
    assert pulse is not None
    assert dict(zip(PRIORITIES, pulse.backlog.waiting, strict=True))["batch"] == sum(pulse.backlog.waiting) == 2


def test_a_beat_on_its_way_with_something_else_says_the_same_to_a_redis_without_scripts(
    redis_client: redis.Redis,
) -> None:
    claims = claims_of(redis_client)
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    enqueue(redis_client, "a", queue=NAMES.worker_queue(MODEL, ME, "batch"))
    for forget in (lambda: None, redis_client.script_flush):
        forget()
        beat = claims.asking([], now())
        with redis_client.pipeline(transaction=False) as pipe:
            beat.ask(pipe)
            beat.hear(pipe.execute(raise_on_error=False)[0])
        pulse = claims.felt(beat)
        assert pulse is not None
        assert pulse.backlog == claims.beat([], now()).backlog  # type: ignore[union-attr]
        assert sum(pulse.backlog.waiting) == 1


def test_recovery_that_hears_that_nothing_runs_looks_no_further(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery = Recovery(redis_client, NAMES, [queue_of(redis_client)])
    looks: list[int] = []

    def reap_all(*given: Any) -> int:
        looks.append(failed := reap_expired(*given))
        return failed

    monkeypatch.setattr("worker.rq.recovery.reap_expired", reap_all)
    for has_expired in (False, True):
        if has_expired:
            enqueue(redis_client, "a")
            claim(claims_of(redis_client), 1)
            expire_all(redis_client)
        with redis_client.pipeline(transaction=False) as pipe:
            recovery.ask(pipe)
            recovery.hear(pipe.execute()[0])
        recovery._next_s = 0.0
        recovery.run_if_due()
        assert looks == [1] * has_expired
    assert redis_client.hget("rq:job:a", "status") == b"failed"


def test_a_beat_of_a_forgotten_worker_says_so(redis_client: redis.Redis) -> None:
    assert claims_of(redis_client).beat([], now()) is None


def test_moved_jobs_keep_their_order_come_first_and_know_their_new_queue(redis_client: redis.Redis) -> None:
    """H15: the queue of a dead worker has no consumer."""
    enqueue(redis_client, "late", queue=QUEUE)
    enqueue(redis_client, "a", "b", "c")
    assert move_jobs(redis_client, KEY, f"rq:queue:{QUEUE}", QUEUE) == 3
    assert redis_client.lrange(f"rq:queue:{QUEUE}", 0, -1) == [b"a", b"b", b"c", b"late"]
    assert redis_client.hget("rq:job:b", "origin") == QUEUE.encode()


def test_a_ring_is_heard_once_and_one_that_came_before_is_not_lost(redis_client: redis.Redis) -> None:
    rings: list[float] = []
    redis_client.lpush(NAMES.bell(ME), 1)
    waiter = BellWaiter(redis_client, NAMES.bell(ME), lambda: rings.append(time.monotonic()))
    waiter.start()
    try:
        wait_until(lambda: len(rings) == 1, "the first ring")
        redis_client.lpush(NAMES.bell(ME), 1)
        wait_until(lambda: len(rings) == 2, "the second ring")
        assert redis_client.llen(NAMES.bell(ME)) == 0
    finally:
        waiter.stop()


def test_a_waiter_that_was_told_to_stop_rings_no_more(redis_client: redis.Redis) -> None:
    rings: list[bool] = []
    waiter = BellWaiter(redis_client, NAMES.bell(ME), lambda: rings.append(True))
    waiter.start()
    wait_until(lambda: any(other["cmd"] == "blpop" for other in redis_client.client_list()), "it waits")
    waiter.stop()
    redis_client.lpush(NAMES.bell(ME), 1)
    wait_until(lambda: redis_client.llen(NAMES.bell(ME)) == 0, "the ring is taken")
    wait_until(lambda: not waiter.is_alive, "its thread ends")
    assert not rings


def test_an_entry_that_is_no_text_stops_no_claim_and_is_dropped(redis_client: redis.Redis) -> None:
    redis_client.rpush(KEY, b"\xff\xfe")
    enqueue(redis_client, "a")
    assert ids(claim(claims_of(redis_client), 2)) == ["a"]
    assert not redis_client.exists(KEY)


WRONG: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "x"),
    "hash": lambda client, key: client.hset(key, "a", "x"),
    "set": lambda client, key: client.sadd(key, "x"),
}


@pytest.mark.parametrize(
    "key",
    ["rq:job:{job}", "rq:execution:{job}:{execution}", "rq:executions:{job}", "rq:results:{job}"]
    + [f"rq:{name}:{QUEUE}" for name in ("wip", "finished", "failed", "canceled")],
)
def test_the_end_of_a_job_is_written_whatever_its_keys_hold(redis_url: str, key: str) -> None:
    """Else every end behind it would wait for ever."""
    errors = (None, RequestCancelledError("x"), WorkerLostError("x"))
    with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
        for write_wrong, error in itertools.product(WRONG.values(), errors):
            client.flushall()
            enqueue(client, "a", "b")
            worker = EngineWorker(client, NAMES, name=ME, model=MODEL, post=lambda _: None)
            worker.begin()
            outcomes = Outcomes(worker, Patience())
            for claimed in claim(claims_of(client), 2):
                slot = Slot(claimed, queue_of(client), Ticket("r", 1, ""), now(), claimed.execution_id)
                if slot.job_id == "a":
                    name = key.format(job=slot.job_id, execution=slot.execution_id)
                    client.delete(name)
                    write_wrong(client, name)
                outcomes.add(slot, Ended(slot.ticket, error, Usage()))
                outcomes.record(busy_with=None, resting=WorkerStatus.IDLE)
            assert client.hget("rq:job:b", "status") not in (None, b"started")
            assert not list(client.scan_iter("rq:execution:b*"))
            assert not [entry for entry in client.zrange(f"rq:wip:{QUEUE}", 0, -1) if entry.startswith(b"b")]


@pytest.mark.parametrize("name", ["wip", "failed", "finished", "canceled"])
def test_recovery_goes_on_whatever_registries_hold(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    enqueue(redis_client, "a", "b")
    claim(claims_of(redis_client), 2)
    expire_all(redis_client)
    redis_client.delete(f"rq:{name}:{QUEUE}")
    redis_client.set(f"rq:{name}:{QUEUE}", "x")
    recovery = Recovery(redis_client, NAMES, [queue_of(redis_client)])
    for _ in range(2):
        recovery._next_s = recovery._next_tidy_s = 0.0
        recovery.run_if_due()
    assert f"rq:{name}:{QUEUE} held a string instead of a zset" in caplog.text
    if name != "wip":
        assert redis_client.hget("rq:job:b", "status") == b"failed"


# --- records --------------------------------------------------------------------------------------------------------

_FIELDS = (
    *("data", "created_at", "origin", "worker_name", "description", "enqueued_at", "started_at", "ended_at", "ttl"),
    *("last_heartbeat", "group_id", "result", "timeout", "result_ttl", "failure_ttl", "status", "meta", "exc_info"),
    *("success_callback_name", "success_callback_timeout", "webhooks", "dependency_ids", "dependency_id"),
    *("allow_dependency_failures", "enqueue_at_front", "number_of_retries", "retries_left", "retry_intervals"),
    *("enqueue_at_front_on_retry", "repeats_left", "repeat_intervals"),
)
_ODD_VALUES = (b"\xff", b"", b"1", b"queued", b"9" * 5000, b"2026-01-01T00:00:00Z", b"xh", b"[" * 100_000, b"null")


@pytest.mark.parametrize("name", [*_FIELDS, ""])
def test_a_job_is_recorded_whatever_its_hash_says(name: str) -> None:
    """Only what the claim itself wrote is relied on."""
    for value in _ODD_VALUES:
        fields = {b"data": b"x", name.encode(): value} if name else {}
        slot = Slot(Claimed(QUEUE, "interactive", "j", "e", fields), queue_of(_NOWHERE), Ticket("r", 1, ""), now(), "e")
        job = slot.job(_Recorder())  # type: ignore[arg-type]
        assert (job.origin, job._status, job.worker_name) == (QUEUE, JobStatus.STARTED, ME)


_NOWHERE = redis.Redis()  # never asked


class _Recorder:
    connection = _NOWHERE
    serializer = JobSerializer
    name = ME


# --- recovery -------------------------------------------------------------------------------------------------------


def _reap_expired_together(url: str, barrier: Any, results: Any) -> None:
    client = redis.Redis.from_url(url)
    barrier.wait()
    results.put(reap_expired(client, NAMES, [queue_of(client)]))


def test_three_reapers_at_once_fail_each_job_once(redis_url: str, redis_client: redis.Redis) -> None:
    """H1: RQ's own clean-up, run by several at once, queues and fails jobs twice."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    names = [f"j{number}" for number in range(24)]
    enqueue(redis_client, *names)
    claim(claims_of(redis_client, ttl_s=1), 24)
    expire_all(redis_client)
    processes = [context.Process(target=_reap_expired_together, args=(redis_url, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert sum(results.get(timeout=90) for _ in processes) == 24
    for process in processes:
        process.join()
    assert redis_client.zcard(f"rq:failed:{QUEUE}") == 24
    assert redis_client.zcard(f"rq:wip:{QUEUE}") == redis_client.llen(KEY) == 0
    for name in names:
        assert redis_client.xlen(f"rq:results:{name}") == 1
        assert redis_client.hget(f"rq:job:{name}", "status") == b"failed"


def test_what_rq_did_not_write_stops_neither_claims_nor_clean_up(redis_client: redis.Redis) -> None:
    """One foreign entry would otherwise end every worker of the model, one after the other."""
    enqueue(redis_client, "good")
    written = redis_client.hgetall("rq:job:good")
    for name in (b"\xff\xfe", b"a:b", b"a b"):
        redis_client.hset(b"rq:job:" + name, mapping=written)
        redis_client.lpush(KEY, name)
    redis_client.set("rq:job:text", "no hash")
    redis_client.lpush(KEY, "text")
    redis_client.hset(NAMES.body("host", "good", 1), "no", "text")
    redis_client.hset(NAMES.ended("good"), "no", "text")
    assert ids(claim(claims_of(redis_client, ttl_s=1), 9)) == ["good"]
    redis_client.hset("rq:job:bad", mapping={"status": "started", "timeout": "never", "origin": QUEUE})
    redis_client.hset("rq:job:empty", mapping={"status": "started"})
    entries = ["bad:e", "empty:e", "no such job:e", b"\xff\xfe:e", "", *redis_client.zrange(f"rq:wip:{QUEUE}", 0, -1)]
    redis_client.zadd(f"rq:wip:{QUEUE}", dict.fromkeys(entries, 1.0))
    assert reap_expired(redis_client, NAMES, [queue_of(redis_client)]) == 3
    assert redis_client.zcard(f"rq:wip:{QUEUE}") == 0
    assert {redis_client.hget(f"rq:job:{job}", "status") for job in ("good", "bad", "empty")} == {b"failed"}


def test_a_live_workers_jobs_are_not_reaped(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "mine")
    claim(claims_of(redis_client), 1)
    enqueue(redis_client, "theirs", queue=own("interactive", DEAD))
    claim(claims_of(redis_client, DEAD), 1)
    assert reap_expired(redis_client, NAMES, [queue_of(redis_client)]) == 0
    redis_client.hset(f"rq:worker:{DEAD}", mapping={"queues": QUEUE})
    assert reap(redis_client, NAMES, DEAD) == 1
    assert redis_client.hget("rq:job:mine", "status") == b"started"
    assert redis_client.hget("rq:job:theirs", "status") == b"failed"


def test_a_dead_workers_jobs_are_found_after_its_records_have_expired(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "running", "waiting", queue=own("interactive", DEAD))
    claim(claims_of(redis_client, DEAD), 1)
    redis_client.delete(f"rq:worker:{DEAD}", *redis_client.scan_iter("rq:execution:*"))
    redis_client.hset(NAMES.placed(DEAD), "v", 2)
    redis_client.lpush(NAMES.bell(DEAD), 1)
    assert reap(redis_client, NAMES, DEAD) == 1
    assert redis_client.hget("rq:job:running", "status") == b"failed"
    assert redis_client.lrange(f"rq:queue:{QUEUE}", 0, -1) == [b"waiting"]
    assert not redis_client.exists(NAMES.placed(DEAD), NAMES.bell(DEAD))


def test_reaping_leaves_a_job_that_ended_by_itself(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "j", queue=own("interactive", DEAD))
    claim(claims_of(redis_client, DEAD), 1)
    redis_client.hset("rq:job:j", "status", "finished")
    redis_client.hset(f"rq:worker:{DEAD}", mapping={"queues": QUEUE})
    assert reap(redis_client, NAMES, DEAD) == 0
    assert redis_client.hget("rq:job:j", "status") == b"finished"
    assert redis_client.zcard(f"rq:wip:{QUEUE}") == 0


@pytest.mark.parametrize("name", _FIELDS)
def test_a_dead_workers_job_is_reaped_whatever_its_hash_says(redis_client: redis.Redis, name: str) -> None:
    """Else one such job would stop every worker's recovery, and the host that buries its worker."""
    for number, value in enumerate(_ODD_VALUES):
        job = f"j{number}"
        enqueue(redis_client, job, queue=own("interactive", DEAD))
        claim(claims_of(redis_client, DEAD), 1)
        if name != "status":
            redis_client.hset(f"rq:job:{job}", name, value)
        redis_client.hset(f"rq:worker:{DEAD}", mapping={"queues": QUEUE})
        assert reap(redis_client, NAMES, DEAD) == 1
        assert redis_client.hget(f"rq:job:{job}", "status") == b"failed"
        assert redis_client.zcard(f"rq:wip:{QUEUE}") == 0


def test_an_entry_of_running_jobs_that_is_no_text_stops_no_recovery(redis_client: redis.Redis) -> None:
    redis_client.zadd(f"rq:wip:{QUEUE}", {b"\xff\xfe": 0})
    assert reap_expired(redis_client, NAMES, [queue_of(redis_client)]) == 0


# --- jobs -----------------------------------------------------------------------------------------------------------


def hash_of(client: redis.Redis, job_id: str) -> dict[bytes, bytes]:
    found: Any = client.hgetall(f"rq:job:{job_id}")
    return dict(found)


def test_a_gateways_job_is_its_ticket(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "j")
    assert ticket_of(hash_of(redis_client, "j")) == Ticket("j", 1, "00")


@pytest.mark.parametrize("kind", ["on_success", "on_failure", "on_stopped"])
def test_a_jobs_callbacks_are_never_looked_up(redis_client: redis.Redis, kind: str) -> None:
    arguments: dict[str, Any] = {kind: Callback("no.such.module")}
    Queue(QUEUE, connection=redis_client, serializer=JobSerializer).enqueue_call(
        keys.JOB_FUNCTION, args=["j", 1, "00"], job_id="j", description="x", **arguments
    )
    with pytest.raises(WireError, match="not allowed"):
        ticket_of(hash_of(redis_client, "j"))
    job = SafeJob.fetch("j", connection=redis_client, serializer=JobSerializer)
    with pytest.raises(WireError, match="not allowed"):
        getattr(job, {"on_success": "success", "on_failure": "failure", "on_stopped": "stopped"}[kind] + "_callback")


def test_a_jobs_webhooks_are_never_called(redis_client: redis.Redis) -> None:
    enqueue(redis_client, "j")
    with pytest.raises(WireError, match="not allowed"):
        ticket_of(hash_of(redis_client, "j") | {b"webhooks": b"[]"})


@pytest.mark.parametrize(
    "data",
    [
        ["os.system", None, ["ls"], {}],
        [keys.JOB_FUNCTION, "instance", ["r", 1, "00"], {}],
        [keys.JOB_FUNCTION, None, ["r"], {}],
        [keys.JOB_FUNCTION, None, ["r", "1", "00"], {}],
        [keys.JOB_FUNCTION, None, ["r", 1, "00"], {"more": 1}],
        [[], None, ["r", 1, "00"], {}],
        [keys.JOB_FUNCTION, None, 1, 2],
        "text",
        None,
    ],
)
def test_a_job_that_no_gateway_made_has_no_ticket(data: Any) -> None:
    with pytest.raises(WireError):
        ticket_of({b"data": zlib.compress(JobSerializer.dumps(data))})


@pytest.mark.parametrize("data", [b"", b"plain", zlib.compress(b"not json"), zlib.compress(b"[" * 10_000_000)])
def test_a_job_of_other_bytes_has_no_ticket(data: bytes) -> None:
    with pytest.raises(WireError):
        ticket_of({b"data": data})


def test_cancelling_through_stock_rq_is_possible_once_the_execution_expired(redis_client: redis.Redis) -> None:
    """H4"""
    enqueue(redis_client, "j")
    claim(claims_of(redis_client, ttl_s=1), 1)
    wait_until(lambda: not list(redis_client.scan_iter("rq:execution:*")), "the execution to expire")
    Job.fetch("j", connection=redis_client, serializer=JobSerializer).cancel()
    assert redis_client.hget("rq:job:j", "status") == JobStatus.CANCELED.encode()


@pytest.fixture
def loop(redis_url: str, tmp_path: Path) -> ControlLoop:
    spec = ModelSpec(id=MODEL, source=MODEL, engine="echo")
    return Worker(worker_settings(redis_url, tmp_path), spec, "host", StatusPipe()).loop


def test_the_clients_time_outs_stay_what_they_were(loop: ControlLoop) -> None:
    """H9: stock RQ raises the socket time-out of every command to minutes."""
    assert loop.rq.connection.connection_pool.connection_kwargs["socket_timeout"] == 5.0


def test_a_workers_figures_have_names_and_meanings(loop: ControlLoop) -> None:
    assert set(loop.describe().metrics) <= set(FIGURES)


def test_what_came_while_no_place_was_free_is_asked_for_once_there_is_one(
    loop: ControlLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not only at the next beat, which counts what waits."""
    asked: list[Any] = []
    claim = loop._claims.claim

    def count(*given: Any, **named: Any) -> Any:
        asked.append(given)
        return claim(*given, **named)

    monkeypatch.setattr(loop._claims, "claim", count)
    loop._lease = replace(loop._lease, state="ready", capacity=1)
    loop._inbox.put(Rung())
    with monkeypatch.context() as full:
        full.setattr("worker.rq.control.may_take", lambda *_: False)
        loop._handle_messages()
    assert not asked
    loop._handle_messages()
    assert len(asked) == 1
    loop._handle_messages()
    assert len(asked) == 1, "nothing has come since"


def test_jobs_are_never_run_the_stock_way(loop: ControlLoop) -> None:
    with pytest.raises(NotImplementedError):
        loop.rq.execute_job(None, None)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        loop.rq.work()


@pytest.mark.parametrize(
    "key",
    [
        f"rq:wip:{QUEUE}",
        f"rq:queue:{own('batch')}",
        "rq:queues",
        "rq:executions:j",
        NAMES.placed(ME),
        f"rq:worker:{ME}",
        NAMES.bell(ME),
    ],
)
def test_a_key_of_a_wrong_type_stops_no_claim_and_loses_no_job(redis_client: redis.Redis, key: str) -> None:
    enqueue(redis_client, "j")
    redis_client.delete(key)
    redis_client.set(key, "foreign")
    claims = claims_of(redis_client)
    [job] = claim(claims, 1)
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    assert claims.beat([Held(job.queue, job.job_id, job.execution_id)], now()) is not None


@pytest.mark.parametrize("key", ["rq:executions:{0}", "rq:execution:{0}:{1}", "rq:job:{0}", f"rq:wip:{QUEUE}"])
def test_a_key_of_a_wrong_type_stops_the_beat_of_no_other_job(redis_client: redis.Redis, key: str) -> None:
    enqueue(redis_client, "a", "b")
    claims = claims_of(redis_client)
    bad, good = claim(claims, 2)
    key = key.format(bad.job_id, bad.execution_id)
    redis_client.delete(key)
    redis_client.lpush(key, "foreign")
    redis_client.hset(f"rq:worker:{ME}", "birth", "x")
    pulse = claims.beat([Held(job.queue, job.job_id, job.execution_id) for job in (bad, good)], now())
    assert pulse is not None
    assert pulse.statuses[1] == "started"
    assert pulse.statuses[0] == ("" if key.startswith("rq:job:") else "started")


def test_a_worker_begins_whatever_the_registries_of_workers_hold(redis_client: redis.Redis, loop: ControlLoop) -> None:
    registries = ["rq:workers", *(f"rq:workers:{name}" for name in loop.rq.queue_names())]
    for begin in (loop.rq.begin, lambda: loop.rq.register_again([], 6, resting=WorkerStatus.IDLE)):
        for key in registries:
            redis_client.delete(key)
            redis_client.hset(key, "foreign", "x")
        begin()
        assert all(redis_client.sismember(key, loop.rq.key) for key in registries)
