"""Cancellations are heard, whatever else is said, and again after Redis was away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from shared import wire
from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import wait_until
from worker.serving.cancellation import CancelListener


@contextmanager
def listening(url: str, heard: list[tuple[str, int, str]], others: dict[str, list[bytes]]) -> Iterator[None]:
    def cancel(request_id: str, attempt: int, reason: str) -> None:
        heard.append((request_id, attempt, reason))

    channels = {channel: said.append for channel, said in others.items()}
    listener = CancelListener(redis.Redis.from_url(url, socket_timeout=5), NAMES, cancel, others=channels)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        listener.join()


def say(client: redis.Redis, request_id: str) -> bool:
    """Whether anybody heard it."""
    return bool(client.publish(NAMES.cancels, wire.encode([request_id, 1, "client left"])))


def test_a_cancellation_is_heard_with_its_reason(redis_url: str, redis_client: redis.Redis) -> None:
    heard: list[tuple[str, int, str]] = []
    with listening(redis_url, heard, {}):
        wait_until(lambda: say(redis_client, "r1"), "a listener")
        wait_until(lambda: heard, "the cancellation")
    assert heard[0] == ("r1", 1, "client left")


def test_messages_of_other_channels_go_their_own_way(redis_url: str, redis_client: redis.Redis) -> None:
    heard: list[tuple[str, int, str]] = []
    said: list[bytes] = []
    with listening(redis_url, heard, {"rq:pubsub:w": said}):
        wait_until(lambda: redis_client.publish("rq:pubsub:w", b"command"), "a listener")
        wait_until(lambda: said == [b"command"], "the command")
    assert heard == []


def test_junk_is_passed_over(redis_url: str, redis_client: redis.Redis) -> None:
    heard: list[tuple[str, int, str]] = []
    with listening(redis_url, heard, {}):
        wait_until(lambda: redis_client.publish(NAMES.cancels, b"\xc1"), "a listener")
        for junk in (b"", wire.encode("r1"), wire.encode(["r1"]), wire.encode([1, 2, 3])):
            redis_client.publish(NAMES.cancels, junk)
        say(redis_client, "r2")
        wait_until(lambda: heard == [("r2", 1, "client left")], "only the real one")


def test_cancellations_are_heard_again_after_redis_was_away(redis_server: RedisServer) -> None:
    heard: list[tuple[str, int, str]] = []
    with listening(redis_server.url, heard, {}):
        with redis.Redis.from_url(redis_server.url) as client:
            wait_until(lambda: say(client, "before"), "a listener")
        redis_server.restart()
        with redis.Redis.from_url(redis_server.url) as client:
            wait_until(lambda: say(client, "after"), "a listener again")
        wait_until(lambda: ("after", 1, "client left") in heard, "the cancellation")
