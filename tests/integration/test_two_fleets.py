"""Two fleets on one Redis server, each with a database and a deployment of its own, and a model of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from shared.keys import Names
from shared.redis_server import RedisServer
from tests.support.served import Served, message, served

MESSAGES = "/v1/messages"
DEPLOYMENTS = ("home", "office")


@pytest.fixture
def fleets(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Served]]:
    with ExitStack() as stack:
        found = []
        for number, deployment in enumerate(DEPLOYMENTS):
            folder = tmp_path / deployment
            folder.mkdir()
            url = f"{redis_server.url}?db={number}"
            gateway = stack.enter_context(served(url, folder, deployment=deployment))
            stack.enter_context(gateway.worker(step_ms=1))
            found.append(gateway)
        yield found


@pytest.mark.slow
def test_neither_fleet_hears_sees_or_answers_the_other(fleets: list[Served], redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client, client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.psubscribe("*")
        listener.get_message(timeout=1)
        for number, gateway in enumerate(fleets):
            reply = gateway.post(MESSAGES, message(f"fleet {number}"))
            assert (reply.status, reply.json["content"][0]["text"]) == (200, f"fleet {number}")
            counted = gateway.post("/v1/messages/count_tokens", message("one two three"))
            assert counted.json["input_tokens"] == 3
            listed = gateway.get("/status").json
            assert len(listed["workers"]) == 1
        channels = set()
        while (heard := listener.get_message(timeout=0.2)) is not None and len(channels) < 100:
            channels.add(heard["channel"].decode())
            if len({channel.partition(":")[0] for channel in channels} & set(DEPLOYMENTS)) == 2:
                break
    assert {channel.partition(":")[0] for channel in channels} >= set(DEPLOYMENTS)
    for number, deployment in enumerate(DEPLOYMENTS):
        with redis.Redis.from_url(f"{redis_server.url}?db={number}") as own:
            names = [key.decode() for key in own.scan_iter()]
            (other,) = set(DEPLOYMENTS) - {deployment}
            assert not [name for name in names if name.startswith(f"{other}:") or f":{other}:" in name]
            (worker,) = own.smembers(Names(deployment).workers)
            assert b".echo." in worker
