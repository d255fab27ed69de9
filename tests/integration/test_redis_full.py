"""Requests that wait fill what Redis has for them, and no more: what is full is called so, and the fleet lives on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.served import EventSource, Served, message, served

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
MAX_BYTES = 48 * 1024 * 1024
BODY_BYTES = 6 * 1024 * 1024


def large(words: str, **fields: Any) -> dict[str, Any]:
    earlier = [{"role": "user", "content": "x" * BODY_BYTES}, {"role": "assistant", "content": "y"}]
    body = message(words, **fields)
    return body | {"messages": [*earlier, *body["messages"]]}


def ends_of(source: EventSource) -> str:
    return [name for name, _ in source][-1]


def test_large_requests_that_wait_are_bounded_by_their_bytes_and_all_that_were_taken_are_answered(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with (
        redis.Redis.from_url(redis_server.url) as client,
        served(redis_server.url, tmp_path, stream_grace_s=0.1) as gateway,
        gateway.worker(MLX_GATEWAY_CAPACITY=1),
        ExitStack() as leaving,
    ):
        client.config_set("maxmemory", MAX_BYTES)
        first = leaving.enter_context(gateway.stream(MESSAGES, message("echo:hang", stream=True)))
        waiting: list[EventSource] = []
        while len(waiting) < 20:
            source = leaving.enter_context(gateway.stream(MESSAGES, large("hello", stream=True)))
            if source.status != 200:
                assert (source.status, "retry-after" in source.headers) == (529, True)
                break
            waiting.append(source)
        assert 2 <= len(waiting) <= MAX_BYTES // BODY_BYTES
        # Redis gives back what it read with by and by: from here on there is no room, but for what is small.
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.2))
        refused(gateway)
        assert client.exists(*client.keys(NAMES.lease("*"))), "the worker's lease is there"
        assert 'reason="bytes_full"' in gateway.get("/metrics").body.decode()
        client.config_set("maxmemory", MAX_BYTES)
        first.leave()
        assert [ends_of(source) for source in waiting] == ["message_stop"] * len(waiting)
        assert gateway.post(MESSAGES, large("room again")).status == 200


def refused(gateway: Served) -> None:
    """In the words of each dialect, with a time to come back."""
    for path, status, kind in ((MESSAGES, 529, "overloaded_error"), (CHAT, 503, "server_error")):
        reply = gateway.post(path, large("x"))
        assert (reply.status, reply.json["error"]["type"]) == (status, kind)
        assert "requests that wait take" in reply.json["error"]["message"]
        assert 1 <= int(reply.headers["retry-after"]) <= 60


def test_who_lives_stays_alive_on_a_redis_that_somebody_else_has_filled(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with (
        redis.Redis.from_url(redis_server.url) as client,
        served(redis_server.url, tmp_path, stream_grace_s=0.1) as gateway,
        gateway.worker(step_ms=20),
        gateway.stream(MESSAGES, message("echo:words 100000", max_tokens=100_000, stream=True)) as running,
    ):
        words = iter(running)
        client.config_set("maxmemory", 1)
        (name,) = client.keys(NAMES.lease("*"))
        for path in (MESSAGES, CHAT):
            reply = gateway.post(path, message("x"))
            assert reply.status in (529, 503)
            assert "Redis is full" in reply.json["error"]["message"]
            assert reply.headers["retry-after"]
        renewed = client.pttl(name)
        wait_until(lambda: client.pttl(name) > renewed, "the lease is renewed")
        for _ in range(100):
            next(words)
        client.config_set("maxmemory", 0)
        assert gateway.post(MESSAGES, message("room again")).status == 200


def test_a_body_that_would_not_even_fit_alone_is_too_large(redis_server: RedisServer, tmp_path: Path) -> None:
    with (
        redis.Redis.from_url(redis_server.url) as client,
        served(redis_server.url, tmp_path) as gateway,
        gateway.worker(),
    ):
        client.config_set("maxmemory", BODY_BYTES)
        assert gateway.post(MESSAGES, large("x")).status == 413
