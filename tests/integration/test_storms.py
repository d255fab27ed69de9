"""Requests by the hundred, mixed and dropped at every stage: nothing of them stays, anywhere.

`make test` sends dozens, which shows each way in which something could stay; the slow run sends hundreds.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
import redis

from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import Running, wait_until
from tests.support.queues import running_jobs, waiting_jobs
from tests.support.served import Served, message, served

PATHS = ("/v1/messages", "/v1/chat/completions")
STAGES = ("connected", "half a body", "sent", "begun", "answered")
WORDS = ("echo:words 300", "hello there", "echo:hang", "word " * 400, "echo:fail overloaded no", "echo:think a b\nc")
# What is there for as long as somebody lives, or is RQ's list of what there is.
LASTING = ("rq:queues", "rq:workers", "rq:worker:", "rq:canceled:", "rq:finished:", "rq:failed:", "rq:clean_registries")


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Running]]:
    folder = tmp_path_factory.mktemp("storm")
    with RedisServer() as server, served(server.url, folder, max_queue=1000, keepalive_s=0.1) as gateway:
        with gateway.worker(step_ms=2, prefill_tokens_per_s=20_000, MLX_GATEWAY_CAPACITY=8) as worker:
            yield gateway, worker


def send(gateway: Served, number: int, *, stage: str) -> bytes:
    """One request, dropped at the stage; what came until then."""
    path, words, stream = PATHS[number % 2], WORDS[number % len(WORDS)], bool(number % 3)
    body = orjson.dumps(message(words, stream=stream) | {"max_tokens": 400})
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-mlx-gateway-priority: {('interactive', 'batch')[number % 4 > 1]}"
    )
    head += f"\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        if stage == "connected":
            return b""
        client.sendall(head.encode() + (body[: len(body) // 2] if stage == "half a body" else body))
        if stage in ("half a body", "sent"):
            time.sleep(0.001 * (number % 40))  # whatever it has reached by then
            return b""
        if stage == "begun":
            return client.recv(1)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def figure(gateway: Served, name: str) -> float:
    lines = gateway.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def kept_for_ever(client: redis.Redis) -> list[str]:
    sets = (NAMES.workers, NAMES.hosts, NAMES.gateways)
    names = [key.decode() for key in client.scan_iter()]
    return [name for name in names if name not in sets and not name.startswith(LASTING) and client.ttl(name) == -1]


def subscriptions(client: redis.Redis) -> list[bytes]:
    return sorted(client.pubsub_channels("*"))  # type: ignore[arg-type]


def check_nothing_stays(gateway: Served, client: redis.Redis, before: Any) -> None:
    channels, files = before
    wait_until(lambda: not running_jobs(client, "echo") and not waiting_jobs(client, "echo"), "no job is left")
    wait_until(lambda: figure(gateway, "gw_inflight") == 0, "nothing is under way")
    wait_until(lambda: not list(client.scan_iter("rq:execution*")), "no execution is left")
    assert kept_for_ever(client) == []
    assert not list(client.scan_iter(f"{NAMES.deployment}:req:*")), "bodies"
    assert subscriptions(client) == channels
    wait_until(
        lambda: figure(gateway, "process_open_fds") <= files + 40,
        "connections are closed, but for a pool of them to Redis",
    )
    assert gateway.post(PATHS[0], message("still there")).status == 200


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_a_storm_of_requests_that_are_dropped_at_every_stage_leaves_nothing_behind(
    busy: tuple[Served, Running], count: int
) -> None:
    gateway, worker = busy
    with gateway.client() as client, ThreadPoolExecutor(32) as pool:
        gateway.post(PATHS[0], message("warm"))
        before = subscriptions(client), figure(gateway, "process_open_fds")
        stages = [stage for stage in STAGES if stage != "answered"]
        jobs = [pool.submit(send, gateway, n, stage=stages[n // 2 % len(stages)]) for n in range(count)]
        for job in jobs:
            job.result(60)
        check_nothing_stays(gateway, client, before)
        assert worker.process.poll() is None


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_flood_of_mixed_requests_is_answered_each_and_leaves_nothing_behind(
    busy: tuple[Served, Running], count: int
) -> None:
    gateway, worker = busy
    with gateway.client() as client, ThreadPoolExecutor(64) as pool:
        gateway.post(PATHS[0], message("warm"))
        before = subscriptions(client), figure(gateway, "process_open_fds")
        numbers = [n for n in range(2 * count) if WORDS[n % len(WORDS)] != "echo:hang"][:count]
        answers = [job.result(60) for job in [pool.submit(send, gateway, n, stage="answered") for n in numbers]]
        assert {answer.split(b" ", 2)[1] for answer in answers} <= {b"200", b"503", b"529"}
        overloaded = sum(WORDS[n % len(WORDS)].startswith("echo:fail") for n in numbers)
        assert sum(answer.startswith(b"HTTP/1.1 200") for answer in answers) >= count - overloaded
        check_nothing_stays(gateway, client, before)
        assert worker.process.poll() is None
