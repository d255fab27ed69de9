"""Clients that leave, workers that die, a Redis that restarts: every request ends, and the work with it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from rq.command import send_stop_job_command
from rq.job import Job

from shared import wire
from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.queues import cancelled_jobs, running_jobs, waiting_jobs
from tests.support.served import EventSource, Reply, Served, message, served

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"


ENDLESS = "echo:words 100000"
SOON = {"stream_grace_s": 0.2, "keepalive_s": 0.2, "execution_ttl_s": 2, "drain_s": 1.5}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with RedisServer() as server, served(server.url, tmp_path_factory.mktemp("gateway"), **SOON) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def steady(gateway: Served) -> Iterator[str]:
    """A model that says a word every 20 ms."""
    with gateway.worker("steady", step_ms=20):
        yield "steady"


@pytest.fixture(scope="module")
def narrow(gateway: Served) -> Iterator[str]:
    """A model that answers one request at a time."""
    with gateway.worker("narrow", MLX_GATEWAY_CAPACITY=1):
        yield "narrow"


@pytest.fixture(scope="module")
def hasty(gateway: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Another gateway on the same Redis, with which nobody waits for long."""
    folder = tmp_path_factory.mktemp("hasty")
    with served(gateway.redis_url, folder, **SOON, interactive_deadline_s=1) as hasty:
        yield hasty


@dataclass(frozen=True)
class Apart:
    """A gateway and a worker on a Redis of their own, which may break as long as it comes back."""

    server: RedisServer
    gateway: Served


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with RedisServer() as server, served(server.url, tmp_path_factory.mktemp("apart"), **SOON) as gateway:
        with gateway.worker(step_ms=10, MLX_GATEWAY_CAPACITY=1):
            yield Apart(server, gateway)


@pytest.fixture
def model() -> str:
    """A model of this test alone, so that no test sees another's jobs."""
    return f"echo{next(_numbers)}"


def ask(words: str, model: str, **fields: Any) -> dict[str, Any]:
    return message(words, model=model, **fields | {"max_tokens": 100_000})


def first_words(source: EventSource) -> None:
    """Read until text has come."""
    next(data for name, data in source if name == "content_block_delta")


def last_event(source: EventSource) -> dict[str, Any]:
    """Read to the end; what the last event said."""
    return dict(orjson.loads(list(source)[-1][1]))


@contextlib.contextmanager
def waiting(gateway: Served, path: str, body: dict[str, Any]) -> Iterator[Any]:
    """A whole answer that is awaited beside the test."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(gateway.post, path, body)


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_a_client_that_leaves_a_stream_stops_its_work(gateway: Served, steady: str, path: str) -> None:
    with gateway.client() as client:
        with gateway.stream(path, ask(ENDLESS, steady, stream=True)) as source:
            next(iter(source))
            (job_id,) = wait_until(lambda: running_jobs(client, steady), "it runs")
        wait_until(lambda: not running_jobs(client, steady), "the work ends", deadline_s=30)
        assert job_id in cancelled_jobs(client, steady)


def test_a_client_that_leaves_without_streaming_stops_its_work_too(gateway: Served, steady: str) -> None:
    with gateway.client() as client:
        connection = sent(gateway, ask(ENDLESS, steady))
        (job_id,) = wait_until(lambda: running_jobs(client, steady), "the work begins")
        connection.close()
        wait_until(lambda: not running_jobs(client, steady), "the work ends", deadline_s=30)
        assert job_id in cancelled_jobs(client, steady)


def sent(gateway: Served, body: dict[str, Any]) -> http.client.HTTPConnection:
    """A request whose answer nobody reads yet."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    connection.request("POST", MESSAGES, orjson.dumps(body))
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_the_queue_takes_its_job_along(gateway: Served, narrow: str, stream: bool) -> None:
    with gateway.client() as client:
        with gateway.stream(MESSAGES, ask("echo:hang", narrow, stream=True)):
            connection = sent(gateway, ask("hello", narrow, stream=stream))
            (job_id,) = wait_until(lambda: waiting_jobs(client, narrow), "the job is queued")
            connection.close()
            wait_until(lambda: not waiting_jobs(client, narrow), "the job leaves the queue", deadline_s=30)
            wait_until(lambda: job_id in cancelled_jobs(client, narrow), "RQ calls it cancelled", deadline_s=30)
        wait_until(lambda: not running_jobs(client, narrow), "the other's work ends")


def test_cancellations_are_counted_by_how_far_the_request_was(gateway: Served, steady: str) -> None:
    def count(stage: str) -> float:
        lines = gateway.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith(f'gw_cancels_total{{stage="{stage}"}}'))

    before = count("decode")
    with gateway.stream(MESSAGES, ask(ENDLESS, steady, stream=True)) as source:
        first_words(source)
    wait_until(lambda: count("decode") == before + 1, "the cancellation is counted")


def test_a_worker_that_dies_ends_what_it_held_with_a_retryable_error_within_seconds(
    gateway: Served, model: str
) -> None:
    """In the streams of both dialects, and as a status where nothing was sent yet."""
    with gateway.worker(model, step_ms=20) as worker, gateway.client() as client:
        body = ask(ENDLESS, model, stream=True)
        with gateway.stream(MESSAGES, body) as one, gateway.stream(CHAT, body) as two:
            with waiting(gateway, MESSAGES, ask("echo:hang", model)) as whole:
                first_words(one)
                next(iter(two))
                wait_until(lambda: len(running_jobs(client, model)) == 3, "all three run")
                worker.signal(signal.SIGKILL)
                killed_s = time.monotonic()
                assert last_event(one)["error"]["type"] == "overloaded_error"
                assert last_event(two)["error"]["code"] == "worker_lost"
                reply: Reply = whole.result(30)
                assert time.monotonic() - killed_s < 15
            assert reply.status == 529
            assert reply.headers["x-should-retry"] == "true"


def ready_workers(gateway: Served, model: str) -> int:
    return [(each["model"], each["state"]) for each in gateway.get("/status").json["workers"]].count((model, "ready"))


def test_what_a_dead_worker_held_is_answered_by_another_and_its_clients_notice_nothing(
    gateway: Served, model: str
) -> None:
    """Begun answers go on at the next word; what was not begun is answered from the beginning, streamed and whole."""
    long = "word " * 400 + "end"
    with gateway.worker(model, step_ms=20, prefill_tokens_per_s=40) as doomed, gateway.client() as client:
        with gateway.stream(MESSAGES, ask("echo:words 2000", model, stream=True)) as begun:
            events = iter(begun)
            said = [next(data for name, data in events if name == "content_block_delta")]
            with waiting(gateway, MESSAGES, ask(long, model)) as whole:
                with gateway.stream(CHAT, ask(long, model, stream=True)) as streamed:
                    wait_until(lambda: len(running_jobs(client, model)) == 3, "all three run")
                    with gateway.worker(model):
                        wait_until(lambda: ready_workers(gateway, model) == 2, "the other is there, too")
                        doomed.signal(signal.SIGKILL)
                        rest = list(events)
                        reply: Reply = whole.result(20)
                        chunks = [orjson.loads(data) for _, data in streamed if data.startswith("{")]
    said += [data for name, data in rest if name == "content_block_delta"]
    words = "".join(orjson.loads(data)["delta"]["text"] for data in said).split()
    assert words == [f"word{number}" for number in range(2000)]
    ending = {name: orjson.loads(data) for name, data in rest[-2:]}
    assert ending["message_delta"]["usage"]["output_tokens"] == 2000
    assert (reply.status, reply.json["content"][0]["text"]) == (200, long)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == long
    assert f'gw_redispatches_total{{model="{model}"}} 3.0' in gateway.get("/metrics").body.decode()


def test_a_request_that_waits_longer_than_its_class_may_is_told_so(hasty: Served, narrow: str) -> None:
    with hasty.client() as client:
        wait_until(lambda: narrow in hasty.ready(), "the other gateway sees the worker")
        with hasty.stream(MESSAGES, ask("echo:hang", narrow, stream=True)):
            reply = hasty.post(MESSAGES, ask("hello", narrow))
            assert (reply.status, reply.json["error"]["type"]) == (504, "timeout_error")
            wait_until(lambda: not waiting_jobs(client, narrow), "its job is gone")
            assert len(running_jobs(client, narrow)) == 1, "what runs may take its time"
        wait_until(lambda: not running_jobs(client, narrow), "the other's work ends")


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_an_operator_who_ends_a_job_with_rqs_own_tools_ends_the_stream(gateway: Served, steady: str, how: str) -> None:
    with gateway.client() as client:
        wait_until(lambda: not running_jobs(client, steady), "an idle worker")
        with gateway.stream(MESSAGES, ask(ENDLESS, steady, stream=True)) as source:
            first_words(source)
            (job_id,) = running_jobs(client, steady)
            if how == "stop":
                send_stop_job_command(client, job_id, wire.JobSerializer)
            else:
                Job.fetch(job_id, client, wire.JobSerializer).cancel()
            assert "error" in last_event(source)


def test_an_operator_who_cancels_a_queued_job_ends_the_wait(gateway: Served, narrow: str) -> None:
    with gateway.client() as client:
        with gateway.stream(MESSAGES, ask("echo:hang", narrow, stream=True)):
            with waiting(gateway, MESSAGES, ask("hello", narrow)) as answer:
                (job_id,) = wait_until(lambda: waiting_jobs(client, narrow), "the job is queued")
                Job.fetch(job_id, client, wire.JobSerializer).cancel()
                assert answer.result(40).status == 499
        wait_until(lambda: not running_jobs(client, narrow), "the other's work ends")


def test_subscriptions_that_break_all_the_time_lose_nothing(gateway: Served, model: str) -> None:
    with gateway.worker(model, step_ms=2), gateway.client() as client:
        with gateway.stream(MESSAGES, ask("echo:words 500", model, stream=True)) as source:
            text = ""
            for count, (name, data) in enumerate(source):
                if name == "content_block_delta":
                    text += orjson.loads(data)["delta"]["text"]
                if count % 50 == 10:
                    client.client_kill_filter(_type="pubsub")
                    assert gateway.post(MESSAGES, ask("hello", model)).status == 200
        assert text.split() == [f"word{number}" for number in range(500)]


def test_two_gateways_share_the_workers_and_get_their_own_answers(gateway: Served, hasty: Served, narrow: str) -> None:
    wait_until(lambda: narrow in hasty.ready(), "the other gateway sees the worker")
    for number in range(10):
        for each in (gateway, hasty):
            words = f"{number} of {each.port}"
            assert each.post(MESSAGES, ask(words, narrow)).json["content"][0]["text"] == words


def test_a_redis_that_restarts_empty_costs_no_request_anything(apart: Apart) -> None:
    gateway = apart.gateway
    with gateway.client() as client:
        body = ask("echo:words 150", "echo", stream=True)
        with gateway.stream(MESSAGES, body) as source, waiting(gateway, MESSAGES, ask("hi", "echo")) as queued:
            first_words(source)
            wait_until(lambda: waiting_jobs(client, "echo"), "the job is queued")
            apart.server.restart()
            assert last_event(source)["type"] == "message_stop"
            assert queued.result(20).status == 200, "what waited is sent again"
    wait_until(lambda: gateway.get("/ready").status == 200, "all is well again")
    assert gateway.post(MESSAGES, ask("hello", "echo")).status == 200


def test_a_redis_that_freezes_for_long_ends_every_wait(apart: Apart) -> None:
    gateway = apart.gateway
    with gateway.stream(MESSAGES, ask("echo:hang", "echo", stream=True)) as source:
        assert source.status == 200
        os.kill(apart.server.process.pid, signal.SIGSTOP)
        try:
            frozen_s = time.monotonic()
            assert last_event(source)["error"]["type"] == "overloaded_error"
            assert 2 < time.monotonic() - frozen_s < 20
        finally:
            os.kill(apart.server.process.pid, signal.SIGCONT)
    wait_until(lambda: gateway.get("/ready").status == 200, "all is well again")
    assert gateway.post(MESSAGES, ask("hello", "echo")).status == 200


def test_an_idle_gateway_stops_at_once(redis_url: str, tmp_path: Path) -> None:
    with served(redis_url, tmp_path) as gateway:
        asked_s = time.monotonic()
        gateway.process.signal(signal.SIGTERM)
        assert gateway.process.wait(20) == 0
        assert time.monotonic() - asked_s < 15


def test_a_gateway_that_is_asked_to_stop_lets_short_answers_end_and_tells_the_others(
    redis_url: str, tmp_path: Path
) -> None:
    with served(redis_url, tmp_path, **SOON) as gateway, gateway.worker(step_ms=20), gateway.client() as client:
        long_body, short_body = ask(ENDLESS, "echo", stream=True), ask("echo:words 20", "echo", stream=True)
        with gateway.stream(MESSAGES, long_body) as long, gateway.stream(MESSAGES, short_body) as short:
            first_words(long)
            first_words(short)
            gateway.process.signal(signal.SIGTERM)
            assert last_event(short)["type"] == "message_stop"
            assert last_event(long)["error"]["type"] == "overloaded_error"
            assert gateway.process.wait(40) == 0
        wait_until(lambda: not running_jobs(client, "echo"), "the work ends", deadline_s=30)
