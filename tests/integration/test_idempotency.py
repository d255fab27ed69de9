"""A request that its client has given a key is asked again at another gateway, and joins what runs: two real gateways,
a worker process and one Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.queues import running_jobs, waiting_jobs
from tests.support.served import EventSource, Served, message, served

MESSAGES, CHAT, RESPONSES = "/v1/messages", "/v1/chat/completions", "/v1/responses"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def one(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("one")
    with served(server.url, folder, stream_grace_s=0.1) as gateway, gateway.worker(step_ms=10):
        yield gateway


@pytest.fixture
def other(server: RedisServer, one: Served, tmp_path: Path) -> Iterator[Served]:
    """Another gateway of the same fleet, which the test may kill."""
    with served(server.url, tmp_path, stream_grace_s=0.1) as gateway:
        wait_until(lambda: "echo" in gateway.ready(), "it sees the worker")
        yield gateway


def _ask(words: str, **fields: Any) -> dict[str, Any]:
    return message(words, **{"max_tokens": 100_000, "stream": True} | fields)


def _texts(source: EventSource) -> Iterator[str]:
    for name, data in source:
        if name == "content_block_delta":
            yield orjson.loads(data)["delta"]["text"]


def _jobs(gateway: Served) -> list[str]:
    with gateway.client() as client:
        return running_jobs(client, "echo")


def _kill(gateway: Served) -> None:
    os.kill(gateway.process.pid, signal.SIGKILL)
    gateway.process.wait()


def test_a_retry_at_another_gateway_joins_what_runs_and_hears_all_of_it(one: Served, other: Served) -> None:
    body, key = _ask("echo:words 300"), {"idempotency-key": "joined"}
    with other.stream(MESSAGES, body, key) as first:
        begun = [text for text, _ in zip(_texts(first), range(20), strict=False)]
        jobs = _jobs(one)
        _kill(other)
    with one.stream(MESSAGES, body, key) as retry:
        assert retry.headers["x-mlx-gateway-worker"].endswith("; joined")
        texts = _texts(retry)
        heard = next(texts)
        assert heard.startswith("".join(begun)), "what was said before comes at once"
        assert _jobs(one) == jobs, "nothing is computed a second time"
        heard += "".join(texts)
    assert heard == " ".join(f"word{number}" for number in range(300))
    wait_until(lambda: not _jobs(one), "the work ends")


@pytest.mark.slow
def test_who_joins_goes_on_hearing_it_longer_than_a_gone_gateways_work_is_kept(one: Served, other: Served) -> None:
    body, key = _ask("echo:words 700"), {"idempotency-key": "kept"}  # seven seconds and more
    with other.stream(MESSAGES, body, key) as first:
        next(_texts(first))
        _kill(other)
    with one.stream(MESSAGES, body, key) as retry:
        assert "".join(_texts(retry)).endswith(" word699")


@pytest.mark.slow
def test_without_a_client_the_work_of_a_gone_gateway_is_cancelled(one: Served, other: Served) -> None:
    with other.stream(MESSAGES, _ask("echo:words 100000"), {"idempotency-key": "gone"}) as first:
        next(_texts(first))
        _kill(other)
    wait_until(lambda: not _jobs(one), "the work ends", deadline_s=30)


@pytest.mark.slow
def test_each_who_leaves_ends_only_itself(one: Served, other: Served) -> None:
    body, key = _ask("echo:words 100000"), {"idempotency-key": "leaving"}
    with other.stream(MESSAGES, body, key) as first, one.stream(MESSAGES, body, key) as second:
        texts = _texts(second)
        next(_texts(first))
        next(texts)
        first.leave()
        assert sum(1 for _ in zip(texts, range(150), strict=False)) == 150  # a beat has passed since
        assert len(_jobs(one)) == 1
    wait_until(lambda: not _jobs(one), "the work ends with the last")


def test_at_the_same_gateway_it_joins_too_whatever_is_left_to_chance(one: Served) -> None:
    body, key = _ask("echo:words 100", temperature=1), {"idempotency-key": "here"}
    with one.stream(MESSAGES, body, key) as first:
        next(_texts(first))
        with one.stream(MESSAGES, body, key) as second:
            next(_texts(second))
            assert len(_jobs(one)) == 1


def test_a_key_is_of_one_path_and_body(one: Served, other: Served) -> None:
    """In every dialect's own shape, whether the first is still running or not."""
    key = {"idempotency-key": "another body"}
    assert one.post(MESSAGES, _ask("echo:words 2", stream=False), key).status == 200
    for path, body in (
        (MESSAGES, _ask("echo:words 3")),
        (CHAT, _ask("hi")),
        (RESPONSES, {"model": "echo", "input": "x"}),
    ):
        for gateway in (one, other):
            refused = gateway.post(path, body, key)
            assert refused.status == 400, path
            assert refused.json["error"]["type"] == "invalid_request_error"
            assert "Idempotency-Key was sent with another request" in refused.json["error"]["message"]


def test_what_has_ended_is_answered_anew(one: Served, other: Served) -> None:
    body, key = _ask("echo:words 3", stream=False), {"idempotency-key": "ended"}
    answers = [gateway.post(MESSAGES, body, key) for gateway in (one, other, one)]
    assert [answer.status for answer in answers] == [200] * 3
    assert len({answer.body for answer in answers}) == 3  # ids of their own
    with one.client() as client:
        lasts_s = [client.ttl(name) for name in client.scan_iter(NAMES.run("*", "*"))]
        assert lasts_s
        assert all(0 < each <= 3600 for each in lasts_s)


def test_a_record_that_no_gateway_wrote_is_none(one: Served) -> None:
    body, key = _ask("echo:words 3", stream=False), {"idempotency-key": "forged"}
    assert one.post(MESSAGES, body, key).status == 200
    with one.client() as client:
        for name in client.scan_iter(NAMES.run("*", "*")):
            client.set(name, b"\x03 forged", ex=60)
        assert one.post(MESSAGES, body, key).status == 200
        for name in client.scan_iter(NAMES.run("*", "*")):
            client.delete(name)
            client.rpush(name, "forged")
            client.expire(name, 60)
    assert one.post(MESSAGES, body, key).status == 200


# --- what nobody has taken yet ----------------------------------------------------------------------------------------


@pytest.fixture
def busy(one: Served, other: Served) -> Iterator[EventSource]:
    """A model whose worker takes one request at a time, and what holds that place until it leaves."""
    with one.worker("narrow", step_ms=10, MLX_GATEWAY_CAPACITY=1):
        wait_until(lambda: "narrow" in other.ready(), "the other gateway sees it, too")
        with one.stream(MESSAGES, _ask("echo:words 100000", model="narrow")) as holder:
            next(_texts(holder))
            yield holder


def _waiting(gateway: Served) -> list[str]:
    with gateway.client() as client:
        return waiting_jobs(client, "narrow")


def _ran(gateway: Served) -> set[str]:
    with gateway.client() as client:
        return {name.decode().rpartition(":")[2] for name in client.scan_iter(NAMES.run_once("*"))}


def _words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


def test_a_retry_joins_what_still_waits_at_another_gateway(one: Served, other: Served, busy: EventSource) -> None:
    body, key, ran_before = _ask("echo:words 300", model="narrow"), {"idempotency-key": "waits"}, _ran(one)
    with other.stream(MESSAGES, body, key) as first:
        wait_until(lambda: len(_waiting(one)) == 1, "it waits")
        [job] = _waiting(one)
        with one.stream(MESSAGES, body, key) as retry:
            assert _waiting(one) == [job], "nothing is asked a second time"
            busy.leave()
            assert ["".join(_texts(first)), "".join(_texts(retry))] == [_words(300)] * 2
    assert _ran(one) - ran_before == {job}, "and nothing was computed a second time"


@pytest.mark.slow
def test_what_waits_is_sent_from_here_once_its_first_client_has_left(
    one: Served, other: Served, busy: EventSource
) -> None:
    body, key = _ask("echo:words 20", model="narrow"), {"idempotency-key": "left"}
    with other.stream(MESSAGES, body, key) as first:
        wait_until(lambda: len(_waiting(one)) == 1, "it waits")
        [job] = _waiting(one)
        with ThreadPoolExecutor(1) as pool:
            retry = pool.submit(one.post, MESSAGES, body, key)
            wait_until(lambda: f"waits for {job.rpartition('-')[0]}" in one.process.output(), "it is followed")
            first.leave()
            wait_until(lambda: _waiting(one) not in ([], [job]), "it is sent from here")
            busy.leave()
            assert b"word19" in retry.result(30).body


@pytest.mark.slow
def test_what_waits_at_a_gateway_that_is_killed_is_answered_to_who_asks_again(
    one: Served, other: Served, busy: EventSource
) -> None:
    body, key = _ask("echo:words 20", model="narrow"), {"idempotency-key": "killed"}
    with other.stream(MESSAGES, body, key):
        wait_until(lambda: len(_waiting(one)) == 1, "it waits")
        _kill(other)
    with one.stream(MESSAGES, body, key) as retry:
        busy.leave()
        assert "".join(_texts(retry)) == _words(20)
