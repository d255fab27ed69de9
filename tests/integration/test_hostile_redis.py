"""Somebody without the secret writes to Redis while requests run: whatever they write, every request ends as it should,
no process ends, and what held something else is named in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import Running, wait_until
from tests.support.served import Reply, Served, message, served

MESSAGES = "/v1/messages"
ENORMOUS = "9" * 5000
NOT_TEXT = b"\xff\xfe"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Running, redis.Redis]]:
    folder = tmp_path_factory.mktemp("hostile")
    with RedisServer() as server, served(server.url, folder) as gateway, gateway.client() as client:
        with gateway.worker() as worker:
            gateway.post(MESSAGES, message("warm"))
            yield gateway, worker, client


def key_of(client: redis.Redis, pattern: str) -> str:
    """The one key like this."""
    found = wait_until(lambda: sorted(client.scan_iter(pattern)), f"a key {pattern}")
    return found[0].decode()  # type: ignore[no-any-return]


def answered(stack: tuple[Served, Running, redis.Redis], words: str) -> None:
    """At once, or when it is asked again as it was told: while a worker's lease is gone there is none."""
    gateway, worker, _ = stack

    def reply() -> Reply | None:
        found = gateway.post(MESSAGES, message(words))
        if found.status == 529:
            assert found.json["error"]["type"] == "overloaded_error"
            return None
        return found

    found = wait_until(reply, "an answer")
    assert (found.status, found.json["content"][0]["text"]) == (200, words)
    assert worker.process.poll() is None


WRITE: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "x"),
    "list": lambda client, key: client.rpush(key, "x"),
    "set": lambda client, key: client.sadd(key, "x"),
    "hash": lambda client, key: client.hset(key, "a", "x"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "stream": lambda client, key: client.xadd(key, {"a": "x"}),
}
OURS: dict[str, tuple[Callable[[str], str], str]] = {
    "lease": (NAMES.lease, "string"),
    "workers": (lambda _: NAMES.workers, "set"),
    "placed": (NAMES.placed, "hash"),
    "bell": (NAMES.bell, "list"),
    "soon": (NAMES.soon, "zset"),
    "resident": (NAMES.resident, "zset"),
    "list of the worker": (lambda worker: f"rq:queue:{NAMES.worker_queue('echo', worker, 'interactive')}", "list"),
    "list of the model": (lambda _: f"rq:queue:{NAMES.queue('echo', 'interactive')}", "list"),
    "RQ's queues": (lambda _: "rq:queues", "set"),
    "RQ's started jobs": (lambda _: f"rq:wip:{NAMES.queue('echo', 'interactive')}", "zset"),
    "RQ's finished jobs": (lambda _: f"rq:finished:{NAMES.queue('echo', 'interactive')}", "zset"),
    "RQ's workers": (lambda _: "rq:workers", "set"),
    "RQ's worker": (lambda worker: f"rq:worker:{worker}", "hash"),
}


@pytest.mark.parametrize("name", OURS)
def test_a_key_that_holds_something_else_costs_no_request(
    stack: tuple[Served, Running, redis.Redis], name: str
) -> None:
    client = stack[2]
    worker = key_of(client, f"{NAMES.lease('*')}").removeprefix(NAMES.lease(""))
    key, right = OURS[name][0](worker), OURS[name][1]
    for kind, write in WRITE.items():
        if kind != right:
            with client.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                write(pipe, key)
                pipe.execute()
            answered(stack, f"{kind} words")


NUMBERS = {"enormous": ENORMOUS, "negative": "-7", "infinite": "inf", "no number": "nan", "a text": "x", "half": "1.5"}


@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
def test_what_is_no_count_of_ours_counts_for_nothing(stack: tuple[Served, Running, redis.Redis], value: str) -> None:
    client = stack[2]
    placed = key_of(client, f"{NAMES.deployment}:placed:*")
    for field in ("v", "cold"):
        client.hset(placed, field, value)
        answered(stack, f"{field} words")
        answered(stack, f"{field} more")


def test_notes_that_nobody_of_ours_wrote_are_none(stack: tuple[Served, Running, redis.Redis]) -> None:
    client = stack[2]
    placed = key_of(client, f"{NAMES.deployment}:placed:*")
    client.hset(placed, NOT_TEXT, NOT_TEXT)
    for number, text in enumerate(("interactive nan nan x", "interactive inf -inf x", f"interactive {ENORMOUS} 0 x")):
        client.hset(placed, f"job{number}", text)
        client.hset(placed, f"held{number}", f"!{text}")
    answered(stack, "notes words")
    client.delete(placed)


def figure_of(gateway: Served, name: str) -> float:
    lines = gateway.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def test_names_and_records_that_are_none_hide_nobody(stack: tuple[Served, Running, redis.Redis]) -> None:
    gateway, _, client = stack
    names = (NOT_TEXT, b"", b"..", b"\r\n", b"a" * 50_000)
    for name in names:
        for each, kind in ((NAMES.workers, b"lease"), (NAMES.hosts, b"host"), (NAMES.gateways, b"gateway")):
            client.sadd(each, name)
            client.set(b":".join((NAMES.deployment.encode(), kind, name)), b"\x03" + b"\x91" * 100_000, ex=2)
    reads = figure_of(gateway, "gw_redis_round_trip_seconds_count")
    wait_until(lambda: figure_of(gateway, "gw_redis_round_trip_seconds_count") > reads + 1, "they have been read")
    for words in ("names words", "names more"):
        answered(stack, words)
    assert gateway.get("/status").status == 200
    for name in names:
        for each in (NAMES.workers, NAMES.hosts, NAMES.gateways):
            client.srem(each, name)


def test_the_worker_names_what_it_has_removed(stack: tuple[Served, Running, redis.Redis]) -> None:
    _, worker, client = stack
    placed = key_of(client, f"{NAMES.deployment}:placed:*")
    client.delete(placed)
    client.set(placed, "x")
    wait_until(lambda: f"{placed} held a string instead of a hash" in worker.output(), "the key in the worker's log")
