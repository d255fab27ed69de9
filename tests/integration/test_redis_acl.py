"""The example of access control for Redis lets gateways and hosts do their work, and little else."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from shared import keys
from shared.acl import render_users
from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import free_port, running, wait_until
from tests.support.queues import cancelled_jobs, running_jobs, waiting_jobs
from tests.support.up import message

EXAMPLE = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl.example"
# redis-py tells the server about itself and does without when it may not. Before 7.0 the log names the command alone.
COURTESIES = ("client|setinfo", "client|maint_notifications", "client")


@pytest.fixture
def guarded(redis_server: RedisServer) -> Iterator[tuple[redis.Redis, dict[str, str]]]:
    """An operator's client and one URL per user of the example."""
    urls = {}
    with redis.Redis.from_url(redis_server.url) as operator:
        for line in EXAMPLE.read_text().splitlines():
            _, name, *rules = line.split()
            if name != "default":
                operator.execute_command("ACL", "SETUSER", name, "reset", *rules)
                password = next(rule[1:] for rule in rules if rule.startswith(">"))
                urls[name] = f"unix://{name}:{password}@{redis_server.folder}/r.sock"
        yield operator, urls


def test_a_gateway_and_a_host_work_under_their_users(
    tmp_path: Path, guarded: tuple[redis.Redis, dict[str, str]]
) -> None:
    operator, urls = guarded
    port = free_port()
    common = {"MLX_GATEWAY_SECRET": "s", "MLX_GATEWAY_STATE_DIR": str(tmp_path), "MLX_GATEWAY_PORT": str(port)}
    gateway = running("-m", "gateway", log=tmp_path / "gateway.log", env={**common, "REDIS_URL": urls["gateway"]})
    host = running(
        *("-m", "worker.host.host", "--engine", "echo", "--name", "acl"),
        log=tmp_path / "host.log",
        env={**common, "REDIS_URL": urls["worker"], "MLX_GATEWAY_CAPACITY": "1"},
    )
    with gateway, host:
        wait_until(lambda: _request(port, "GET", "/ready")[0] == 200, "ready", every_s=0.1)
        status, answer = _request(port, "POST", "/v1/messages", message("hello"))
        assert (status, answer["content"][0]["text"]) == (200, "hello")
        status, answer = _request(port, "POST", "/v1/messages/count_tokens", message("one two three"))
        assert (status, answer["input_tokens"]) == (200, 3)
        _leave(port, operator)
    denied = [entry for entry in operator.acl_log() if entry["object"] not in COURTESIES]
    assert denied == []


def _leave(port: int, operator: redis.Redis) -> None:
    """Clients that leave, one whose request runs and one whose request waits behind it."""
    runs, waits = (http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(2))
    with contextlib.closing(runs), contextlib.closing(waits):
        wait_until(lambda: not running_jobs(operator, "echo"), "what was asked before is recorded as ended")
        runs.request("POST", "/v1/messages", json.dumps(message("echo:hang")))
        wait_until(lambda: running_jobs(operator, "echo"), "the first runs", deadline_s=30)
        waits.request("POST", "/v1/messages", json.dumps(message("hello")))
        wait_until(lambda: waiting_jobs(operator, "echo"), "the second waits", deadline_s=30)
        waits.close()
        wait_until(lambda: cancelled_jobs(operator, "echo"), "it is recorded as cancelled", deadline_s=30)
        runs.close()
        wait_until(lambda: not running_jobs(operator, "echo"), "the first has ended", deadline_s=30)


def _request(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    except ConnectionError:
        return 0, None
    finally:
        connection.close()


def test_neither_can_do_what_is_not_its_work(guarded: tuple[redis.Redis, dict[str, str]]) -> None:
    _, urls = guarded
    with redis.Redis.from_url(urls["gateway"]) as gateway, redis.Redis.from_url(urls["worker"]) as worker:
        for client in (gateway, worker):
            for refused in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["GET", "somebody:else"]):
                with pytest.raises(redis.ResponseError):
                    client.execute_command(*refused)
        for refused in (
            ["EVAL", "return 1", "0"],
            ["HGETALL", "rq:worker:w"],
            ["XADD", NAMES.frame_log("w", "g"), "*", "f", "x"],
        ):
            with pytest.raises(redis.ResponseError):
                gateway.execute_command(*refused)
        with pytest.raises(redis.ResponseError):
            gateway.publish("somebody:else", b"x")
        assert gateway.set(NAMES.body(keys.NO_HOST, "r", 1), b"x")


def test_the_example_is_what_the_names_make_of_it() -> None:
    assert EXAMPLE.read_text() == render_users(NAMES), "python -m shared.acl > deploy/redis/users.acl.example"
