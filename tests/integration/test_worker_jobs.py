"""A real worker process with the echo engine: jobs in through RQ, frames out, RQ's records true."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.command import send_shutdown_command, send_stop_job_command
from rq.job import Callback, Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.suspension import resume, suspend
from rq.worker import Worker as StockWorker

from shared import keys, wire
from shared.events import Failed, Finished, Started, TextDelta
from shared.messages import TextPart
from shared.redis_server import RedisServer
from shared.request import Priority
from shared.wire import JobSerializer
from shared.work import LANES, Count, Envelope, Generate
from tests.support.names import NAMES
from tests.support.processes import Running, is_running, wait_until
from tests.support.queues import running_jobs
from tests.support.worker import HOST, MODEL, QUEUE, TestGateway, build_request, running_worker, sign


@pytest.fixture(scope="module")
def shared_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module")
def shared_worker(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_worker(shared_url, tmp_path_factory.mktemp("worker"), options=["step_ms=5"]) as worker:
        yield worker


@pytest.fixture
def worker(shared_worker: Running, gateway: TestGateway) -> Running:
    gateway.wait_ready()
    return shared_worker


@pytest.fixture
def gateway(shared_url: str) -> Iterator[TestGateway]:
    """Its worker is the module's, idle, with nothing of earlier tests in Redis."""
    with TestGateway(shared_url) as gateway:
        yield gateway
        wait_until(lambda: not gateway.leases() or state_of(gateway) in ("idle", "suspended"), "an idle worker")
        kept = ("rq:worker", NAMES.lease(""), NAMES.workers, f"{NAMES.deployment}:log:")
        used = [key for key in gateway.client.scan_iter() if not key.decode().startswith(kept)]
        if used:
            gateway.client.delete(*used)


@pytest.fixture
def own_gateway(redis_url: str) -> Iterator[TestGateway]:
    """For a worker of the test's own."""
    with TestGateway(redis_url) as gateway:
        yield gateway


def started(gateway: TestGateway, queue: str = QUEUE) -> int:
    return StartedJobRegistry(queue, connection=gateway.client).get_job_count(cleanup=False)


def is_in(registry: type[Any], gateway: TestGateway, job_id: str) -> bool:
    return gateway.client.zscore(registry(QUEUE, connection=gateway.client).key, job_id) is not None


def fetch(gateway: TestGateway, job_id: str) -> Job:
    return Job.fetch(job_id, connection=gateway.client, serializer=JobSerializer)


def state_of(gateway: TestGateway) -> str:
    [name] = [lease.worker for lease in gateway.leases()]
    return (gateway.client.hget(f"rq:worker:{name}", "state") or b"").decode()


def test_an_answer_goes_on_when_redis_comes_back_with_what_it_knew_before(
    worker: Running, gateway: TestGateway
) -> None:
    """Its job waits there as if nobody had taken it. It is taken again, and nothing of it runs twice."""
    [name] = [lease.worker for lease in gateway.leases()]
    job_id = gateway.ask("echo:words 400")
    gateway.wait_for(TextDelta)
    with gateway.client.pipeline(transaction=True) as pipe:
        pipe.hset(f"rq:job:{job_id}", "status", "queued")
        pipe.delete(NAMES.run_once(job_id), f"rq:wip:{QUEUE}", *gateway.client.scan_iter("rq:execution*"))
        pipe.rpush(f"rq:queue:{gateway.own_queue()}", job_id)
        pipe.execute()
    wait_until(lambda: gateway.job_status(job_id) == "started", "it is taken again")
    assert gateway.client.hget(f"rq:job:{job_id}", "worker_name") == name.encode()
    assert gateway.completion().parts == (TextPart(text=" ".join(f"word{number}" for number in range(400))),)
    wait_until(lambda: gateway.job_status(job_id) == "finished", "the record")
    assert started(gateway) == 0
    assert not list(gateway.client.scan_iter("rq:execution*"))


def test_a_job_is_answered_and_recorded(worker: Running, gateway: TestGateway) -> None:
    job_id = gateway.ask("hello big world")
    completion = gateway.completion()
    assert completion.parts == (TextPart(text="hello big world"),)
    wait_until(lambda: gateway.job_status(job_id) == "finished", "the record")
    job = fetch(gateway, job_id)
    assert job.return_value() == {"input_tokens": 3, "output_tokens": 3}
    assert is_in(FinishedJobRegistry, gateway, job_id)
    assert started(gateway) == 0
    assert 0 < gateway.client.ttl(job.key) <= keys.RESULT_TTL_S
    wait_until(lambda: state_of(gateway) == "idle", "an idle worker")
    assert not list(gateway.client.scan_iter("rq:execution*"))


def test_the_lease_says_what_the_worker_is(worker: Running, gateway: TestGateway) -> None:
    [lease] = gateway.wait_ready()
    assert (lease.model, lease.pid, lease.state, lease.engine) == (MODEL, worker.pid, "ready", "echo")
    assert lease.queues == tuple(NAMES.worker_queue(MODEL, lease.worker, lane) for lane in LANES)
    assert lease.epoch in lease.worker
    assert (lease.context_tokens, lease.capacity, lease.supports_tools) == (200_000, 16, True)
    assert 0 < gateway.client.pttl(NAMES.lease(lease.worker)) <= keys.LEASE_TTL_S * 1000


def test_sixteen_jobs_run_at_once_and_rq_says_so(worker: Running, gateway: TestGateway, shared_url: str) -> None:
    for number in range(16):
        gateway.ask("echo:words 1000", f"r{number}")
    for number in range(16):
        gateway.wait_for(Started, f"r{number}")
    assert started(gateway) == 16
    assert gateway.queue().count == 0
    assert all(gateway.job_status(f"r{number}-1") == "started" for number in range(16))
    said = rq_cli(shared_url, "info", "--raw")
    assert f"queue {QUEUE} 0, 16 executing, 0 finished, 0 failed" in said
    assert " busy " in said
    assert f"{MODEL}@" in said
    for number in range(16):
        assert gateway.completion(f"r{number}", 20).usage.output_tokens == 1000
    wait_until(lambda: started(gateway) == 0, "the records")


def rq_cli(url: str, *words: str) -> str:
    """RQ's own command line, unmodified, with its stock JSON serializer."""
    done = subprocess.run(
        [Path(sys.executable).with_name("rq"), *words, "--url", url, "-S", "json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_jobs_over_the_capacity_wait_and_start_by_class_then_by_age(
    redis_url: str, tmp_path: Path, own_gateway: TestGateway
) -> None:
    """One place: what is claimed together is prepared side by side, and may be said in any order."""
    gateway = own_gateway
    with running_worker(redis_url, tmp_path, options=["step_ms=5"], MLX_GATEWAY_CAPACITY="1"):
        gateway.wait_ready()
        gateway.ask("echo:words 100", "busy")
        gateway.wait_for(Started, "busy")
        order: list[tuple[str, Priority]] = [
            *(("batch1", "batch"), ("side1", "side"), ("batch2", "batch"), ("main1", "interactive")),
            *(("agent1", "subagent"), ("main2", "interactive")),
        ]
        for name, priority in order:
            gateway.submit(build_request("a", name, priority=priority))
        for name, _ in order:
            gateway.wait_end(name, 20)
        first = [entry.request_id for _, frame in gateway.frames for entry in frame.entries if entry.seq == 0]
        assert [name for name in first if name != "busy"] == [
            *("main1", "main2", "agent1", "side1", "batch1", "batch2")
        ]


def test_interactive_work_begins_at_once_beside_batch_work_that_holds_every_place(
    redis_url: str, tmp_path: Path, own_gateway: TestGateway
) -> None:
    gateway = own_gateway
    with running_worker(redis_url, tmp_path, MLX_GATEWAY_CAPACITY="2"):
        gateway.wait_ready()
        for number in range(5):
            gateway.submit(build_request("echo:hang", f"batch{number}", priority="batch"))
        for number in range(2):
            gateway.wait_for(Started, f"batch{number}")
        gateway.ask("hi")
        assert isinstance(gateway.wait_end(), Finished)
        assert not gateway.events("batch2")


def test_an_operators_stop_job_ends_the_request(worker: Running, gateway: TestGateway) -> None:
    job_id = gateway.ask("echo:words 5000")
    gateway.wait_for(TextDelta)
    send_stop_job_command(gateway.client, job_id, serializer=JobSerializer)
    assert gateway.wait_for(Failed, timeout_s=20).code == "cancelled"
    wait_until(lambda: gateway.job_status(job_id) == "stopped", "the record")
    assert is_in(FailedJobRegistry, gateway, job_id)
    assert started(gateway) == 0


def test_rqs_own_cancel_ends_a_running_job_which_stays_cancelled(worker: Running, gateway: TestGateway) -> None:
    """H7: a cancelled job that then finishes would be finished and cancelled at once."""
    job_id = gateway.ask("echo:words 5000")
    gateway.wait_for(TextDelta)
    fetch(gateway, job_id).cancel()
    assert gateway.wait_for(Failed).code == "cancelled"
    wait_until(lambda: gateway.client.ttl(f"rq:job:{job_id}") > 0, "the record")
    assert gateway.job_status(job_id) == "canceled"
    assert is_in(CanceledJobRegistry, gateway, job_id)
    assert not is_in(FinishedJobRegistry, gateway, job_id)


def test_a_job_cancelled_just_before_it_finishes_stays_cancelled(worker: Running, gateway: TestGateway) -> None:
    """H7, between two heartbeats: the end finds the job cancelled and leaves it so."""
    job_id = gateway.ask("echo:words 40")
    gateway.wait_for(Started)
    fetch(gateway, job_id).cancel()
    gateway.wait_end()
    wait_until(lambda: gateway.client.ttl(f"rq:job:{job_id}") > 0, "the record")
    assert gateway.job_status(job_id) == "canceled"
    assert not is_in(FinishedJobRegistry, gateway, job_id)


def test_a_deleted_job_ends_and_does_not_come_back(worker: Running, gateway: TestGateway) -> None:
    job_id = gateway.ask("echo:words 5000")
    gateway.wait_for(TextDelta)
    fetch(gateway, job_id).delete()
    assert gateway.wait_for(Failed, timeout_s=20).code == "cancelled"
    wait_until(lambda: state_of(gateway) == "idle", "the record")
    assert not gateway.client.exists(f"rq:job:{job_id}")


def test_a_gateways_cancel_is_felt_within_a_step(worker: Running, gateway: TestGateway) -> None:
    job_id = gateway.ask("echo:words 5000")
    gateway.wait_for(TextDelta)
    gateway.cancel()
    failed = gateway.wait_for(Failed)
    assert (failed.code, failed.message) == ("cancelled", "client left")
    assert len(gateway.events()) < 4000, "it went on to the end"
    wait_until(lambda: gateway.job_status(job_id) == "canceled", "the record")
    assert is_in(CanceledJobRegistry, gateway, job_id)


def test_a_request_whose_turn_comes_after_its_deadline_does_not_run(worker: Running, gateway: TestGateway) -> None:
    job_id = gateway.submit(build_request("too late"), deadline_s=time.time() - 1)
    assert gateway.wait_for(Failed, timeout_s=20).code == "deadline_exceeded"
    wait_until(lambda: gateway.job_status(job_id) == "failed", "the record")
    assert "deadline_exceeded" in fetch(gateway, job_id).latest_result().exc_string


def test_failed_jobs_and_their_results_expire(worker: Running, gateway: TestGateway) -> None:
    """H5: without a TTL RQ keeps a failed job for a year and its result for ever."""
    gateway.client.delete(NAMES.body(HOST, "r1", 1))
    job_id = "r1-1"
    gateway.enqueue(keys.JOB_FUNCTION, "r1", 1, "00", "generate", job_id=job_id)
    wait_until(lambda: gateway.job_status(job_id) == "failed", "the failure")
    assert 0 < gateway.client.ttl(f"rq:job:{job_id}") <= keys.FAILURE_TTL_S
    assert 0 < gateway.client.ttl(f"rq:results:{job_id}") <= keys.FAILURE_TTL_S


def test_a_gateway_that_died_has_its_requests_cancelled(worker: Running, gateway: TestGateway, shared_url: str) -> None:
    with TestGateway(shared_url, "gw2") as dying:
        job_id = dying.ask("echo:words 100000", "r2")
        dying.wait_for(TextDelta, "r2")
    wait_until(lambda: gateway.job_status(job_id) == "canceled", "the cancellation", deadline_s=30)


def test_a_slow_request_is_not_given_up_while_its_gateway_listens(worker: Running, gateway: TestGateway) -> None:
    gateway.ask("echo:words 900")
    assert isinstance(gateway.wait_end(timeout_s=20), Finished)


def test_twenty_six_counts_are_answered_beside_a_long_prefill(
    redis_url: str, tmp_path: Path, own_gateway: TestGateway
) -> None:
    gateway = own_gateway
    with running_worker(redis_url, tmp_path, options=["prefill_tokens_per_s=100"]):
        gateway.wait_ready()
        gateway.ask("word " * 2000)
        gateway.wait_for(Started)
        for number in range(26):
            gateway.count("one two " * (number + 1), f"c{number}")
        counts = [gateway.counted(f"c{number}") for number in range(26)]
        assert counts == [2 * (number + 1) for number in range(26)]
        assert not any(isinstance(event, TextDelta | Finished) for event in gateway.events()), "it took twenty seconds"


def test_a_count_with_a_wrong_signature_is_refused(worker: Running, gateway: TestGateway) -> None:
    gateway.count("one", secret="another")
    assert gateway.wait_for(Failed, "c1").code == "wire"


def heartbeat(gateway: TestGateway) -> bytes | None:
    [name] = gateway.client.smembers("rq:workers")
    value: bytes | None = gateway.client.hget(name, "last_heartbeat")
    return value


@pytest.mark.slow
def test_suspended_workers_take_nothing_until_resumed(worker: Running, gateway: TestGateway) -> None:
    suspend(gateway.client)
    wait_until(lambda: state_of(gateway) == "suspended", "the suspension")
    job_id = gateway.ask("hi")
    for _ in range(2):  # it looks again at each beat, and takes nothing
        last = heartbeat(gateway)
        wait_until(lambda last=last: heartbeat(gateway) != last, "a beat")  # type: ignore[misc]
    assert (gateway.job_status(job_id), gateway.events()) == ("queued", [])
    resume(gateway.client)
    assert isinstance(gateway.wait_end(), Finished)


def test_no_word_of_a_prompt_stays_in_redis(worker: Running, gateway: TestGateway) -> None:
    """H11: RQ formats a job's arguments into its description, where prompts would be seen by every tool."""
    job_id = gateway.ask("public words and then topsecret", max_tokens=2)
    gateway.wait_end()
    wait_until(lambda: gateway.job_status(job_id) == "finished", "the record")
    wait_until(lambda: "topsecret" not in everything(gateway.client), "nothing is left")


def everything(client: redis.Redis) -> str:
    read: dict[bytes, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"stream": client.xrange,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"none": lambda key: None,
    }
    return "".join(repr(read[client.type(key)](key)) for key in client.scan_iter())


def test_rqs_shutdown_command_drains(redis_url: str, tmp_path: Path, own_gateway: TestGateway) -> None:
    gateway = own_gateway
    with running_worker(redis_url, tmp_path, options=["step_ms=5"]) as worker:
        [lease] = gateway.wait_ready()
        gateway.ask("echo:words 100")
        gateway.wait_for(Started)
        send_shutdown_command(gateway.client, lease.worker)
        assert isinstance(gateway.wait_end(), Finished)
        assert worker.wait() == 0


# --- jobs that no gateway made --------------------------------------------------------------------------------------


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, (f"touch {self.path}",))


def refused(gateway: TestGateway, job_id: str) -> str:
    wait_until(lambda: gateway.job_status(job_id) == "failed", "the refusal", deadline_s=30)
    text: str = fetch(gateway, job_id).latest_result().exc_string
    return text


@pytest.mark.parametrize(
    "function", ["os.system", "worker.serving.ticket.Ticket", "worker.serving.runner.log.warning", ""]
)
def test_no_function_but_one_is_run(worker: Running, gateway: TestGateway, tmp_path: Path, function: str) -> None:
    mark = tmp_path / "mark"
    gateway.enqueue(function or "x", f"touch {mark}", job_id="bad")
    if not function:
        gateway.client.hset("rq:job:bad", "data", JobSerializer.dumps([None, None, [], {}]))
    assert "not allowed" in refused(gateway, "bad") or not function
    assert not mark.exists()
    gateway.ask("still alive")
    assert isinstance(gateway.wait_end(), Finished)


@pytest.mark.parametrize(
    "data",
    [
        [keys.JOB_FUNCTION, {"a": 1}, ["r", 1, "s", "generate"], {}],
        [keys.JOB_FUNCTION, None, ["r", "one", "s", "generate"], {}],
        [keys.JOB_FUNCTION, None, ["r", 1, "s"], {}],
        [keys.JOB_FUNCTION, None, ["r", 1, "s", "count"], {}],
        [keys.JOB_FUNCTION, None, ["r", 1, "s", "embroider"], {}],
        [keys.JOB_FUNCTION, None, ["r", 1, "s", ["generate"]], {}],
        [keys.JOB_FUNCTION, None, [], {}],
        [keys.JOB_FUNCTION, None, ["r", 1, "s", "generate"], {"more": 1}],
        [keys.JOB_FUNCTION],
        "not a job",
    ],
)
def test_malformed_jobs_fail_and_the_worker_goes_on(worker: Running, gateway: TestGateway, data: Any) -> None:
    gateway.client.hset("rq:job:bad", mapping={"data": JobSerializer.dumps(data), "status": "queued", "origin": QUEUE})
    gateway.push("bad")
    assert "wire" in refused(gateway, "bad")
    gateway.ask("still alive")
    assert isinstance(gateway.wait_end(), Finished)


def test_a_job_that_lost_its_content_fails_and_the_worker_goes_on(worker: Running, gateway: TestGateway) -> None:
    """`set_status` on a job that has expired leaves such a hash."""
    gateway.client.hset("rq:job:bad", "status", "queued")
    gateway.push("bad")
    refused(gateway, "bad")
    gateway.ask("still alive")
    assert isinstance(gateway.wait_end(), Finished)
    assert is_running(worker.pid)


def test_nothing_is_ever_unpickled(worker: Running, gateway: TestGateway, tmp_path: Path) -> None:
    marks = [tmp_path / f"mark{number}" for number in range(3)]
    gateway.client.hset(
        "rq:job:bad",
        mapping={
            "data": pickle.dumps(Harmful(marks[0])),
            "meta": pickle.dumps(Harmful(marks[1])),
            "result": pickle.dumps(Harmful(marks[2])),
            "status": "queued",
            "origin": QUEUE,
        },
    )
    gateway.push("bad")
    refused(gateway, "bad")
    gateway.client.set(NAMES.body(HOST, "r1", 1), pickle.dumps(Harmful(marks[0])))
    gateway.enqueue(keys.JOB_FUNCTION, "r1", 1, "00", "generate", job_id="r1-1")
    refused(gateway, "r1-1")
    gateway.client.rpush(f"rq:queue:{gateway.own_queue('count')}", pickle.dumps(Harmful(marks[0])))
    gateway.client.publish(NAMES.worker_channel(gateway.leases()[0].worker), pickle.dumps(Harmful(marks[0])))
    gateway.ask("still alive", "r2")
    assert isinstance(gateway.wait_end("r2"), Finished)
    assert not any(mark.exists() for mark in marks)


def test_what_was_signed_for_counting_is_not_generated(worker: Running, gateway: TestGateway) -> None:
    """Somebody who reads Redis takes signature and body of a count, and puts them on a worker's list as a job."""
    body = wire.encode(Envelope(work=Count(request=build_request("one", "c1")), gateway=gateway.name))
    gateway.client.set(NAMES.body(HOST, "c1", 1), body)
    gateway.enqueue(keys.JOB_FUNCTION, "c1", 1, sign("c1", 1, body, kind="count"), "generate", job_id="c1-1")
    assert "work of another kind: count" in refused(gateway, "c1-1")
    assert not any(isinstance(event, TextDelta) for event in gateway.events("c1"))


@pytest.mark.parametrize("kind", ["on_success", "on_failure", "on_stopped"])
def test_callbacks_are_refused_and_never_imported(worker: Running, gateway: TestGateway, kind: str) -> None:
    """H3: RQ imports and calls whatever a job names as its callback."""
    callback = Callback("os.abort")
    arguments: dict[str, Any] = {kind: callback}
    gateway.enqueue(keys.JOB_FUNCTION, "r1", 1, "00", "generate", job_id="bad", **arguments)
    assert "callback 'os.abort' is not allowed" in refused(gateway, "bad")
    assert is_running(worker.pid)


def test_webhooks_are_refused_and_never_sent(worker: Running, gateway: TestGateway) -> None:
    gateway.enqueue(keys.JOB_FUNCTION, "r1", 1, "00", "generate", job_id="bad")
    hook = b'[{"job_status": "failed", "url": "http://127.0.0.1:9/", "secret": null}]'
    gateway.client.hset("rq:job:late", mapping=gateway.client.hgetall("rq:job:bad"))
    gateway.client.hset("rq:job:late", mapping={"webhooks": hook, "status": "queued"})
    gateway.push("late")
    assert "wire" in refused(gateway, "late")


def test_garbage_on_the_channels_is_survived(worker: Running, gateway: TestGateway) -> None:
    [lease] = gateway.leases()
    for message in (b"", b"\xc1", wire.encode(["one"]), wire.encode({"a": 1}), b"[]", b'"x"', b'{"command": 7}'):
        gateway.client.publish(NAMES.worker_channel(lease.worker), message)
        gateway.client.publish(f"rq:pubsub:{lease.worker}", message)
        gateway.client.rpush(f"rq:queue:{gateway.own_queue('count')}", message)
    gateway.push("no such job", b"\xff\xfe")
    gateway.ask("still alive")
    assert isinstance(gateway.wait_end(), Finished)


def test_stock_rq_tools_read_the_worker(worker: Running, gateway: TestGateway) -> None:
    gateway.ask("echo:words 300")
    gateway.wait_for(Started)
    [stock] = StockWorker.all(connection=gateway.client, serializer=JobSerializer)
    assert (stock.get_state(), stock.pid, stock.get_current_job_id()) == ("busy", worker.pid, "r1-1")
    assert QUEUE in stock.queue_names()


def test_a_worker_user_with_the_rights_it_needs_and_no_more(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path, own_gateway: TestGateway
) -> None:
    gateway = own_gateway
    redis_client.acl_setuser(
        "worker",
        enabled=True,
        passwords=["+pw"],
        reset_channels=True,  # before 7.0 a new user has all of them
        categories=["+@all", "-@dangerous", "-@admin"],
        commands=["+client|list", "+client|setname", "+info", "+evalsha", "+script|load"],
        keys=["rq:*", f"{NAMES.deployment}:*"],
        channels=[NAMES.gateway_channel("*", "*"), "rq:pubsub:*", NAMES.worker_channel("*")],
    )
    folder = redis_url.partition("@")[2]
    with running_worker(f"unix://worker:pw@{folder}", tmp_path):
        gateway.wait_ready()
        gateway.ask("hi")
        assert isinstance(gateway.wait_end(), Finished)
        gateway.count("one two")
        assert gateway.counted() == 2


@pytest.mark.parametrize("ahead_s", [31, -31])
def test_a_worker_whose_clock_is_wrong_knows_what_is_fresh_and_what_has_expired(
    redis_server: RedisServer, tmp_path: Path, ahead_s: int
) -> None:
    """Deadlines are in Redis's time. The worker's own clock is set by its interpreter's start-up module."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + {ahead_s}\n"
    )
    with (
        TestGateway(redis_server.url) as gateway,
        running_worker(redis_server.url, tmp_path, PYTHONPATH=str(tmp_path)),
    ):
        gateway.wait_ready()
        gateway.submit(build_request("fresh", "r1"), deadline_s=time.time() + 20)
        assert isinstance(gateway.wait_end("r1"), Finished)
        gateway.submit(build_request("expired", "r2"), deadline_s=time.time() - 5)
        failed = gateway.wait_end("r2")
        assert isinstance(failed, Failed)
        assert failed.code == "deadline_exceeded"


def recorded(gateway: TestGateway, job_id: str, status: str) -> None:
    wait_until(lambda: gateway.job_status(job_id) == status, f"{job_id} is {status}")


def test_a_count_leaves_the_records_of_any_other_job(worker: Running, gateway: TestGateway) -> None:
    gateway.count("one two three")
    assert gateway.counted() == 3
    recorded(gateway, "c1-1", "finished")
    job = fetch(gateway, "c1-1")
    assert (job.origin, job.return_value()["input_tokens"]) == (NAMES.queue(MODEL, "count"), 3)
    assert running_jobs(gateway.client, MODEL) == []
    [lease] = gateway.leases()
    assert (lease.kinds, lease.in_flight, sum(lease.held)) == (("generate", "count"), 0, 0)


def test_a_job_in_the_lane_of_another_kind_of_work_is_refused(worker: Running, gateway: TestGateway) -> None:
    """A request among the counts would take no place; a count among requests would take one."""
    request = build_request("one")
    gateway.place(Generate(request=request), queue=gateway.own_queue("count"))
    assert "lane count" in refused(gateway, "r1-1")
    gateway.place(Count(request=replace(request, id="r2")), queue=gateway.own_queue("interactive"))
    assert "lane interactive" in refused(gateway, "r2-1")
    assert gateway.events() == gateway.events("r2") == []


def test_counts_of_a_suspended_worker_wait_and_are_cancelled_as_other_jobs_are(
    worker: Running, gateway: TestGateway
) -> None:
    suspend(gateway.client)
    wait_until(lambda: state_of(gateway) == "suspended", "the suspension")
    gateway.count("one")
    gateway.count("one two", "c2")
    gateway.cancel("c1")
    wait_until(lambda: gateway.leases()[0].beside["count"] == 2, "the lease says what waits")
    resume(gateway.client)
    assert gateway.counted("c2") == 2
    recorded(gateway, "c1-1", "canceled")
    assert gateway.events("c1") == []
