"""The same request again, while the first runs, is given the first one's answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
import redis
from rq.registry import CanceledJobRegistry, FinishedJobRegistry, StartedJobRegistry

from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.queues import recorded_jobs, waiting_jobs
from tests.support.served import EventSource, Served, message, served

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
RETRY = {"x-stainless-retry-count": "1"}


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    with RedisServer() as server, served(server.url, folder, stream_grace_s=0.2) as gateway:
        with gateway.worker(step_ms=10):
            yield gateway


@pytest.fixture
def gateway(shared_gateway: Served) -> Iterator[Served]:
    """With an echo worker that is idle before and after the test, and no record of earlier jobs."""
    with shared_gateway.client() as client:
        for kind in ("finished", "canceled"):
            client.delete(f"rq:{kind}:{NAMES.queue('echo', 'interactive')}")
        yield shared_gateway
        wait_until(lambda: not count_jobs(client), "the work ends")


def ask(words: str, *, model: str = "echo", **fields: Any) -> dict[str, Any]:
    return message(words, model=model, **{"max_tokens": 100_000, "temperature": 0, "stream": True} | fields)


def count_jobs(client: redis.Redis, kind: type = StartedJobRegistry) -> int:
    return len(recorded_jobs(client, "echo", kind))


def wait_finished(gateway: Served) -> None:
    """Until the one job is recorded as finished."""
    with gateway.client() as client:
        wait_until(lambda: count_jobs(client, FinishedJobRegistry), "the job is recorded")
        assert (count_jobs(client, FinishedJobRegistry), count_jobs(client, CanceledJobRegistry)) == (1, 0)


def attached(gateway: Served) -> float:
    """How often somebody was attached since the gateway began."""
    lines = gateway.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("gw_attached_total{"))


def read_words(source: EventSource, count: int = 1) -> list[tuple[str, str]]:
    """Read until text has come so often; everything read."""
    events = []
    for event in source:
        events.append(event)
        if '"text":"w' in event[1] or '"text":" w' in event[1] or '"content":' in event[1]:
            count -= 1
        if count <= 0:
            return events
    raise AssertionError(f"the stream ended after {events[-3:]}")


@contextlib.contextmanager
def waiting(gateway: Served, path: str, body: dict[str, Any]) -> Iterator[Any]:
    """A whole answer that is awaited beside the test."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(gateway.post, path, body)


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_two_who_ask_the_same_at_once_cost_one_job_and_read_the_same(gateway: Served, path: str) -> None:
    before = attached(gateway)
    body = ask("echo:think well\necho:words 60")
    with gateway.stream(path, body) as one:
        begun = read_words(one, 5)
        with gateway.stream(path, body) as two:
            assert attached(gateway) == before + 1
            ours, theirs = begun + list(one), list(two)
    assert ours == theirs
    assert "word59" in "".join(data for _, data in ours)
    assert one.headers["request-id"] != two.headers["request-id"]
    wait_finished(gateway)


def test_an_answer_may_be_read_as_a_stream_and_whole(gateway: Served) -> None:
    before = attached(gateway)
    with gateway.stream(MESSAGES, ask("echo:words 60")) as source:
        read_words(source)
        whole = gateway.post(MESSAGES, ask("echo:words 60", stream=False))
        assert attached(gateway) == before + 1
        assert len(whole.json["content"][0]["text"].split()) == 60
        assert orjson.loads(list(source)[-1][1])["type"] == "message_stop"
    wait_finished(gateway)


def test_one_who_leaves_takes_nothing_from_the_other(gateway: Served) -> None:
    body = ask("echo:words 100")
    with gateway.stream(MESSAGES, body) as one:
        read_words(one)
        with gateway.stream(MESSAGES, body) as two:
            read_words(two)
            one.leave()
            text = [orjson.loads(data)["delta"]["text"] for name, data in two if name == "content_block_delta"]
    assert text[-1] == " word99"
    wait_finished(gateway)


def test_the_work_stops_when_the_last_has_left(gateway: Served) -> None:
    body = ask("echo:words 100000")
    with gateway.client() as client:
        with gateway.stream(MESSAGES, body) as one, gateway.stream(MESSAGES, body) as two:
            read_words(one)
            read_words(two)
            one.leave()
            read_words(two, 20)
            assert count_jobs(client) == 1
        wait_until(lambda: not count_jobs(client), "the work ends", deadline_s=30)
        assert count_jobs(client, CanceledJobRegistry) == 1


def test_choices_without_chance_are_computed_once(gateway: Served) -> None:
    before = attached(gateway)
    answer = gateway.post(CHAT, ask("echo:words 30", stream=False, n=3)).json
    assert [choice["message"]["content"].split()[-1] for choice in answer["choices"]] == ["word29"] * 3
    assert answer["usage"]["completion_tokens"] == 90
    assert attached(gateway) == before + 2
    wait_finished(gateway)


def test_a_client_that_leaves_stops_all_its_choices(gateway: Served) -> None:
    body = ask("echo:words 100000", temperature=1, n=3)
    with gateway.client() as client:
        with gateway.stream(CHAT, body) as source:
            read_words(source, 20)
            assert count_jobs(client) == 3
        wait_until(lambda: not count_jobs(client), "the work ends", deadline_s=30)
        assert count_jobs(client, CanceledJobRegistry) == 3


def test_who_waits_in_the_queue_is_joined_there(gateway: Served) -> None:
    before = attached(gateway)
    with gateway.worker("narrow", MLX_GATEWAY_CAPACITY=1), gateway.client() as client:
        body = ask("hello", model="narrow", stream=False)
        with gateway.stream(MESSAGES, ask("echo:hang", model="narrow")) as hog:
            with waiting(gateway, MESSAGES, body) as one:
                wait_until(lambda: len(waiting_jobs(client, "narrow")) == 1, "the first waits")
                with waiting(gateway, MESSAGES, body) as two:
                    wait_until(lambda: attached(gateway) == before + 1, "the second is attached")
                    hog.leave()
                    assert one.result(20).json == two.result(20).json


def test_a_failure_reaches_all(gateway: Served) -> None:
    before = attached(gateway)
    body = ask("echo:words 50\necho:fail overloaded no")
    with gateway.stream(MESSAGES, body) as one:
        read_words(one)
        with gateway.stream(MESSAGES, body) as two:
            assert attached(gateway) == before + 1
            for source in (one, two):
                assert orjson.loads(list(source)[-1][1])["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("path", "fields", "headers", "jobs"),
    [
        (CHAT, {"temperature": 0.7}, {}, 2),
        (CHAT, {"temperature": 0.7}, RETRY, 1),
        (MESSAGES, {"temperature": 0.7}, RETRY, 1),
        (CHAT, {"temperature": 0.7}, {"x-stainless-retry-count": "0"}, 2),
        (MESSAGES, {"temperature": 0.7}, {"x-claude-code-session-id": "s"}, 1),
        (CHAT, {"temperature": 0.7, "seed": 1}, {}, 1),
    ],
)
def test_where_chance_decides_only_who_asks_again_is_attached(
    gateway: Served, path: str, fields: dict[str, Any], headers: dict[str, str], jobs: int
) -> None:
    body = ask("echo:words 100000", **fields)
    first_headers = {name: value for name, value in headers.items() if name not in RETRY}
    with gateway.stream(path, body, first_headers) as one, gateway.stream(path, body, headers) as two:
        read_words(one, 2)
        read_words(two, 2)
        with gateway.client() as client:
            assert count_jobs(client) == jobs


def test_what_differs_is_answered_by_itself(gateway: Served) -> None:
    asked = [ask("echo:words 100000"), ask("echo:words 100001"), ask("echo:words 100000", top_p=0.5)]
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(gateway.stream(CHAT, body)) for body in asked]
        for source in sources:
            read_words(source, 2)
        with gateway.client() as client:
            assert count_jobs(client) == 3
