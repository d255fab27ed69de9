"""Two hosts whose models have one name and other files, each asked under a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.served import Served, message, served

MESSAGES = "/v1/messages"


@pytest.fixture
def gateway(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    with served(redis_server.url, tmp_path) as found:
        with found.worker(host="mac1", identity="a"), found.worker(host="mac2", identity="b"):
            wait_until(lambda: found.ready() == ["echo", "echo@mac2"], "both serve under names of their own")
            yield found


def test_each_is_asked_under_its_own_name(gateway: Served) -> None:
    for name, host in (("echo", "mac1"), ("echo@mac2", "mac2")):
        for number in range(3):
            reply = gateway.post(MESSAGES, message(f"hello {number}", model=name))
            assert (reply.status, reply.json["content"][0]["text"]) == (200, f"hello {number}")
            assert reply.headers["x-mlx-gateway-worker"].startswith(f"{host}.echo.")
        counted = gateway.post(f"{MESSAGES}/count_tokens", message("one two three", model=name))
        assert counted.json["input_tokens"] == 3
