"""However a worker ends, its clients get an answer, its jobs are recorded once, and nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.worker import Worker as StockWorker

from shared.events import Failed, Finished, Started, TextDelta
from shared.redis_server import RedisServer
from shared.wire import JobSerializer
from tests.support.names import NAMES
from tests.support.processes import REPOSITORY, Running, is_running, wait_until
from tests.support.worker import MODEL, QUEUE, SECRET, TestGateway, build_request, running_worker
from worker.rq.reaping import reap
from worker.status import (
    EXIT_ENGINE_BROKEN,
    EXIT_LOAD_FAILED,
    EXIT_NO_REDIS,
    EXIT_STALLED,
    EXIT_STOPPED,
    SIGNAL_UNLOAD,
    Status,
    parse_status,
)


@pytest.fixture
def gateway(redis_url: str) -> Iterator[TestGateway]:
    with TestGateway(redis_url) as gateway:
        yield gateway


def wip(gateway: TestGateway) -> int:
    return StartedJobRegistry(QUEUE, connection=gateway.client).get_job_count(cleanup=False)


def failed_jobs(gateway: TestGateway) -> list[str]:
    return FailedJobRegistry(QUEUE, connection=gateway.client).get_job_ids(cleanup=False)


def nothing_left(gateway: TestGateway) -> bool:
    """No lease, no RQ worker, no execution, no started job."""
    client = gateway.client
    return (
        not gateway.leases()
        and not client.smembers(NAMES.workers)
        and not client.smembers("rq:workers")
        and not list(client.scan_iter("rq:execution*"))
        and wip(gateway) == 0
    )


@contextlib.contextmanager
def busy_worker(
    redis_url: str,
    tmp_path: Path,
    gateway: TestGateway,
    *,
    requests: int = 1,
    text: str = "echo:hang",
    engine: str = "echo",
    **environment: str,
) -> Iterator[tuple[Running, list[str]]]:
    """A worker, and the jobs of the requests that it runs without ever ending them."""
    with running_worker(redis_url, tmp_path, engine=engine, **environment) as worker:
        gateway.wait_ready()
        jobs = [gateway.ask(text, f"r{number}") for number in range(1, requests + 1)]
        for number in range(1, requests + 1):
            gateway.wait_for(Started, f"r{number}")
        yield worker, jobs


# --- asked to stop --------------------------------------------------------------------------------------------------


def test_a_terminated_worker_finishes_what_runs_and_leaves_nothing(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    with running_worker(redis_url, tmp_path, options=["step_ms=5"]) as worker:
        gateway.wait_ready()
        job_id = gateway.ask("echo:words 200")
        gateway.wait_for(TextDelta)
        worker.signal(signal.SIGTERM)
        wait_until(lambda: [lease.state for lease in gateway.leases()] == ["draining"], "the lease")
        late = gateway.ask("for the next worker", "r2")
        assert isinstance(gateway.wait_end(), Finished)
        assert worker.wait() == EXIT_STOPPED
    assert gateway.job_status(job_id) == "finished"
    assert gateway.job_status(late) == "queued"
    assert gateway.queue().job_ids == [late]
    assert nothing_left(gateway)


def test_an_idle_worker_stops_within_a_moment(redis_url: str, tmp_path: Path, gateway: TestGateway) -> None:
    with running_worker(redis_url, tmp_path) as worker:
        gateway.wait_ready()
        began_s = time.monotonic()
        worker.signal(signal.SIGINT)
        assert worker.wait() == EXIT_STOPPED
        assert time.monotonic() - began_s < 10
    assert nothing_left(gateway)


def test_what_outlasts_the_drain_ends_with_a_retryable_error(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    with busy_worker(redis_url, tmp_path, gateway, MLX_GATEWAY_DRAIN_S="0.5") as (worker, [job_id]):
        worker.signal(signal.SIGTERM)
        failed = gateway.wait_for(Failed)
        assert (failed.code, failed.error().retryable) == ("worker_lost", True)
        assert worker.wait() == EXIT_STOPPED
    assert gateway.job_status(job_id) == "failed"
    assert nothing_left(gateway)


def test_a_worker_that_is_unloaded_takes_its_time_until_it_is_told_to_stop(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    with busy_worker(redis_url, tmp_path, gateway, MLX_GATEWAY_DRAIN_S="0.3") as (worker, _):
        worker.signal(SIGNAL_UNLOAD)
        wait_until(lambda: [lease.state for lease in gateway.leases()] == ["draining"], "the lease")
        with pytest.raises(AssertionError, match="no Failed"):
            gateway.wait_for(Failed, timeout_s=1.0)  # three times what a stop would give it
        worker.signal(signal.SIGTERM)
        assert gateway.wait_for(Failed).code == "worker_lost"
        assert worker.wait() == EXIT_STOPPED


def test_a_second_signal_ends_at_once(redis_url: str, tmp_path: Path, gateway: TestGateway) -> None:
    with busy_worker(redis_url, tmp_path, gateway, MLX_GATEWAY_DRAIN_S="60") as (worker, _):
        worker.signal(signal.SIGTERM)
        wait_until(lambda: [lease.state for lease in gateway.leases()] == ["draining"], "the lease")
        worker.signal(signal.SIGTERM)
        assert gateway.wait_for(Failed, timeout_s=20).code == "worker_lost"
        assert worker.wait() == EXIT_STOPPED
    assert nothing_left(gateway)


def test_jobs_that_arrive_while_it_stops_are_left_in_the_queue(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    """H8: a waiter still blocked on the queue must not take what the stopping worker leaves."""
    with busy_worker(redis_url, tmp_path, gateway, MLX_GATEWAY_DRAIN_S="60") as (worker, _):
        worker.signal(signal.SIGTERM)
        wait_until(lambda: [lease.state for lease in gateway.leases()] == ["draining"], "the lease")
        late = [gateway.ask("hi", f"late{number}") for number in range(5)]
        bell = NAMES.bell(gateway.leases()[0].worker)
        wait_until(lambda: not gateway.client.exists(bell), "its waiter has heard of them")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == EXIT_STOPPED
    assert gateway.queue().job_ids == late
    assert nothing_left(gateway)


def test_its_own_queue_goes_to_the_model_when_it_stops(redis_url: str, tmp_path: Path, gateway: TestGateway) -> None:
    with running_worker(redis_url, tmp_path, MLX_GATEWAY_CAPACITY="1", MLX_GATEWAY_DRAIN_S="0.2") as worker:
        gateway.wait_ready()
        own = gateway.own_queue()
        for number in range(5):
            gateway.ask("echo:hang", f"r{number}")
        gateway.wait_for(Started, "r0")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == EXIT_STOPPED
    waiting = gateway.queue().job_ids
    assert waiting == [f"r{number}-1" for number in range(5 - len(waiting), 5)]
    assert len(waiting) >= 2
    job = Job.fetch(waiting[0], connection=gateway.client, serializer=JobSerializer)
    assert job.origin == QUEUE
    assert f"rq:queue:{own}".encode() not in gateway.client.smembers("rq:queues")


# --- killed ---------------------------------------------------------------------------------------------------------


def test_what_a_killed_worker_held_fails_when_its_beats_stop(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    """Without a supervisor: another worker of the model sees it. H6: RQ's own maintenance lock, left behind by
    somebody who was killed too, does not delay that."""
    gateway.client.set(f"rq:clean_registries:{QUEUE}", 1, ex=900)
    with busy_worker(redis_url, tmp_path, gateway, requests=4, MLX_GATEWAY_EXECUTION_TTL_S="4") as (doomed, jobs):
        known = gateway.client.smembers(NAMES.workers)
        with running_worker(redis_url, tmp_path):
            # (The other says by now that it hangs, where this one took its time.)
            wait_until(
                lambda: [
                    each for each in gateway.leases() if each.state == "ready" and each.worker.encode() not in known
                ],
                "another worker",
                deadline_s=60,
            )
            doomed.signal(signal.SIGKILL)
            wait_until(lambda: set(failed_jobs(gateway)) == set(jobs), "the failures", deadline_s=60)
            assert wip(gateway) == 0
            gateway.ask("still served", "r9")
            assert isinstance(gateway.wait_end("r9"), Finished)


def test_a_supervisor_frees_at_once_what_a_killed_worker_held(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    """H10 and H15: nothing of the dead worker stays listed, its own queue is served by others, and a new worker of
    the same model starts at once."""
    with running_worker(redis_url, tmp_path, MLX_GATEWAY_CAPACITY="2") as doomed:
        [lease] = gateway.wait_ready()
        for number in range(8):
            gateway.ask("echo:hang" if number < 4 else "hi", f"r{number}")
        gateway.wait_for(Started, "r0")
        wait_until(lambda: wip(gateway) == 2, "the claims")
        doomed.signal(signal.SIGKILL)
        doomed.process.wait()
    assert reap(gateway.client, NAMES, lease.worker) == 2
    assert reap(gateway.client, NAMES, lease.worker) == 0
    assert wip(gateway) == 0
    assert not gateway.leases()
    assert not StockWorker.all(connection=gateway.client)
    assert len(gateway.queue().job_ids) == 6
    with running_worker(redis_url, tmp_path):
        [new] = gateway.wait_ready()
        assert new.worker != lease.worker
        assert gateway.hand_over(new.worker) == 6
        assert isinstance(gateway.wait_end("r7"), Finished)


def test_rqs_cancel_works_on_a_job_whose_worker_died(redis_url: str, tmp_path: Path, gateway: TestGateway) -> None:
    """H4: stock RQ raises when a job's execution expired before its registry entry did."""
    with busy_worker(redis_url, tmp_path, gateway, MLX_GATEWAY_EXECUTION_TTL_S="1") as (worker, [job_id]):
        worker.signal(signal.SIGKILL)
        worker.process.wait()
    wait_until(lambda: not list(gateway.client.scan_iter("rq:execution:*")), "the execution to expire")
    Job.fetch(job_id, connection=gateway.client, serializer=JobSerializer).cancel()
    assert gateway.job_status(job_id) == "canceled"


def test_a_worker_that_slept_does_not_start_what_was_given_away(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    """A stopped process (a Mac that slept) finds its jobs ended by others and lets go of them."""
    with busy_worker(redis_url, tmp_path, gateway, MLX_GATEWAY_EXECUTION_TTL_S="1") as (sleeper, [job_id]):
        sleeper.signal(signal.SIGSTOP)
        try:
            with running_worker(redis_url, tmp_path):
                wait_until(lambda: failed_jobs(gateway) == [job_id], "the failure", deadline_s=30)
        finally:
            sleeper.signal(signal.SIGCONT)
        assert gateway.wait_for(Failed, timeout_s=20).code == "worker_lost"
        wait_until(lambda: gateway.leases() and gateway.leases()[0].in_flight == 0, "an idle worker")
        assert gateway.job_status(job_id) == "failed"
        [awake] = wait_until(lambda: [w.worker for w in gateway.leases() if w.pid == sleeper.pid], "its lease")
        gateway.submit(build_request("awake again", "r2"), queue=gateway.own_queue(worker=awake))
        assert isinstance(gateway.wait_end("r2"), Finished)


# --- broken engines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["echo", "echo-streamed"])
def test_a_broken_engine_ends_the_worker_and_answers_everyone(
    redis_url: str, tmp_path: Path, gateway: TestGateway, engine: str
) -> None:
    with busy_worker(redis_url, tmp_path, gateway, requests=3, engine=engine) as (worker, jobs):
        jobs.append(gateway.ask("echo:break", "r4"))
        for number in range(1, 5):
            assert gateway.wait_for(Failed, f"r{number}").code == "worker_lost"
        assert worker.wait() == EXIT_ENGINE_BROKEN
    assert set(failed_jobs(gateway)) == set(jobs)
    assert nothing_left(gateway)


@pytest.mark.parametrize("engine", ["echo", "echo-streamed"])
def test_a_hung_engine_is_noticed_and_the_worker_ends_itself(
    redis_url: str, tmp_path: Path, gateway: TestGateway, engine: str
) -> None:
    """H14: heartbeats alone would go on for ever."""
    stuck = busy_worker(redis_url, tmp_path, gateway, text="echo:freeze", engine=engine, MLX_GATEWAY_STALL_S="1")
    with stuck as (worker, [job_id]):
        failed = gateway.wait_for(Failed)
        assert (failed.code, failed.message) == ("worker_lost", "the engine stopped making progress")
        assert worker.wait() == EXIT_STALLED
    assert gateway.job_status(job_id) == "failed"
    assert nothing_left(gateway)


@contextlib.contextmanager
def status_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        yield reader, writer
    finally:
        for descriptor in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def started_with_status(url: str, state: Path, writer: int, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "--engine", "echo", "--status-fd", str(writer), *words],
        env={
            **os.environ,
            "REDIS_URL": url,
            "MLX_GATEWAY_SECRET": SECRET,
            "MLX_GATEWAY_STATE_DIR": str(state),
            **environment,
        },
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        start_new_session=True,
    )


def read_statuses(reader: int, until: str, deadline_s: float = 15.0) -> list[Status]:
    """Every status up to the first with the state `until`."""
    seen: list[Status] = []
    rest = b""
    end_s = time.monotonic() + deadline_s
    while not seen or seen[-1].state != until:
        assert select.select([reader], [], [], max(0, end_s - time.monotonic()))[0], f"only {seen}"
        *lines, rest = (rest + os.read(reader, 65536)).split(b"\n")
        seen += [parse_status(line) for line in lines]
    return seen


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_status_pipe_shows_loading_then_ready(redis_url: str, tmp_path: Path) -> None:
    with status_pipe() as (reader, writer):
        command = ["--model", "x", "--option", "load_ms=300"]
        with ended(started_with_status(redis_url, tmp_path, writer, *command)):
            statuses = read_statuses(reader, "ready")
    done = [status.done for status in statuses if status.state == "loading"]
    assert done == sorted(done)
    assert len(done) > 5
    assert ".x." in statuses[-1].worker
    assert all(status.worker for status in statuses)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "x", "--option", "load_ms=never"], "load_ms"),
        (["--model", "x", "--option", "fast"], "KEY=VALUE"),
    ],
)
def test_a_model_that_cannot_be_served_says_why_and_exits_with_its_own_status(
    redis_url: str, tmp_path: Path, words: list[str], reason: str
) -> None:
    with status_pipe() as (reader, writer):
        with ended(started_with_status(redis_url, tmp_path, writer, *words)) as process:
            status = read_statuses(reader, "failed")[-1]
            assert process.wait(40) == EXIT_LOAD_FAILED
            assert process.stderr is not None
            assert reason in process.stderr.read().decode()
    assert reason in status.reason
    assert status.code == "config"


def test_a_model_folder_that_is_none_fails_to_load_with_the_reason(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    with status_pipe() as (reader, writer):
        command = ["--engine", "mlx", "--model", str(tmp_path / "nothing-here")]
        with ended(started_with_status(redis_url, tmp_path, writer, *command)) as process:
            status = read_statuses(reader, "failed", 40)[-1]
            assert process.wait(20) == EXIT_LOAD_FAILED
    assert "nothing-here" in status.reason
    assert nothing_left(gateway)


SUPERVISOR = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-m", "worker", *sys.argv[1:], "--status-fd", "2"], start_new_session=True)
print(worker.pid, flush=True)
time.sleep(600)
"""


def test_no_worker_survives_its_supervisor(redis_url: str, tmp_path: Path, gateway: TestGateway) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, "--model", MODEL, "--engine", "echo"],
        env={
            **os.environ,
            "REDIS_URL": redis_url,
            "MLX_GATEWAY_SECRET": SECRET,
            "MLX_GATEWAY_STATE_DIR": str(tmp_path),
        },
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert supervisor.stdout is not None
    worker = int(supervisor.stdout.readline())
    try:
        gateway.wait_ready()
        gateway.ask("echo:hang")
        gateway.wait_for(Started)
        supervisor.kill()
        supervisor.communicate()
        assert gateway.wait_for(Failed, timeout_s=20).code == "worker_lost"
        wait_until(lambda: not is_running(worker), "the worker's end", deadline_s=30)
        assert nothing_left(gateway)
    finally:
        supervisor.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


# --- Redis away -----------------------------------------------------------------------------------------------------


def test_a_flushed_redis_is_filled_again_while_generation_goes_on(
    redis_url: str, tmp_path: Path, gateway: TestGateway
) -> None:
    with running_worker(redis_url, tmp_path, options=["step_ms=5"]):
        [lease] = gateway.wait_ready()
        for number in range(4):
            gateway.ask("echo:words 700", f"r{number}")
            gateway.wait_for(TextDelta, f"r{number}")
        gateway.client.flushall()
        wait_until(lambda: wip(gateway) == 4, "the records", deadline_s=30)
        assert [worker.name for worker in StockWorker.all(connection=gateway.client)] == [lease.worker]
        assert [found.worker for found in gateway.wait_ready()] == [lease.worker]
        for number in range(4):
            assert isinstance(gateway.wait_end(f"r{number}", 20), Finished)
        wait_until(lambda: all(gateway.job_status(f"r{n}-1") == "finished" for n in range(4)), "the ends")
        gateway.ask("new", "r9")
        assert isinstance(gateway.wait_end("r9"), Finished)


def test_a_redis_that_restarts_finds_the_worker_there_again(redis_server: RedisServer, tmp_path: Path) -> None:
    with running_worker(redis_server.url, tmp_path) as worker:
        with TestGateway(redis_server.url) as before:
            before.wait_ready()
            before.ask("hi")
            assert isinstance(before.wait_end(), Finished)
        redis_server.restart()
        with TestGateway(redis_server.url, "gw2") as after:
            after.wait_ready()
            after.ask("hello again", "r2")
            assert isinstance(after.wait_end("r2", 15), Finished)
            wait_until(lambda: after.job_status("r2-1") == "finished", "the record")
            after.cancel("r9")
            after.count("one two three")
            assert after.counted() == 3
        assert worker.process.poll() is None


@pytest.mark.slow
def test_a_redis_that_takes_nothing_is_said_once_and_worked_with_when_it_does(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A full Redis, here; an outage of hours must not fill the log."""
    with TestGateway(redis_server.url) as gateway, running_worker(redis_server.url, tmp_path) as worker:
        [lease] = gateway.wait_ready()
        wait_until(lambda: gateway.client.hget(f"rq:worker:{lease.worker}", "state") == b"idle", "an idle worker")
        gateway.client.config_set("maxmemory", 1)
        wait_until(lambda: refusals(gateway.client) >= 24, "it was tried again and again")
        assert worker.output().count("could not beat") == 1
        assert gateway.client.exists(NAMES.lease(lease.worker))  # who lives does not look dead for want of memory
        gateway.client.config_set("maxmemory", 0)
        gateway.wait_ready()
        gateway.ask("hi")
        assert isinstance(gateway.wait_end(), Finished)


def refusals(client: redis.Redis) -> int:
    return int(client.info("errorstats").get("errorstat_OOM", {}).get("count", 0))


def test_a_frozen_redis_is_waited_for(redis_server: RedisServer, tmp_path: Path) -> None:
    with TestGateway(redis_server.url) as gateway, running_worker(redis_server.url, tmp_path, options=["step_ms=5"]):
        gateway.wait_ready()
        gateway.ask("echo:words 400")
        gateway.wait_for(TextDelta)
        os.kill(redis_server.process.pid, signal.SIGSTOP)
        threading.Timer(3.0, os.kill, (redis_server.process.pid, signal.SIGCONT)).start()
        assert isinstance(gateway.wait_end(timeout_s=20), Finished)
        assert gateway.entry_seqs() == list(range(len(gateway.entry_seqs())))


def test_a_worker_without_redis_says_so_and_ends(tmp_path: Path) -> None:
    with running_worker(f"unix://{tmp_path}/none.sock", tmp_path) as worker:
        assert worker.wait() == EXIT_NO_REDIS
        assert "none.sock" in worker.output()
        assert "Traceback" not in worker.output()
