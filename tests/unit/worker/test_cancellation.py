"""Cancellations are heard, whatever else is said, and again after Redis was away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from shared import wire
from shared.redis_server import RedisServer
from shared.request import End
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.sealed import control_seal, frame_seal, host_seal
from worker.serving import cancellation
from worker.serving.cancellation import CancelListener

WORKER = "h.w.e"
CHANNEL = NAMES.worker_channel(WORKER)


def end(request_id: str) -> End:
    return End(request_id=request_id, attempt=1, reason="client left")


@contextmanager
def listening(url: str, heard: list[End], others: dict[str, list[bytes]]) -> Iterator[None]:
    channels = {channel: said.append for channel, said in others.items()}
    client = redis.Redis.from_url(url, socket_timeout=5)
    listener = CancelListener(client, CHANNEL, control_seal(WORKER), heard.append, others=channels)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        listener.join()
        client.close()


def say(client: redis.Redis, request_id: str) -> bool:
    """Whether anybody heard it."""
    return bool(client.publish(CHANNEL, control_seal(WORKER).close(wire.encode(end(request_id)))))


def test_a_cancellation_is_heard_with_its_reason(redis_url: str, redis_client: redis.Redis) -> None:
    heard: list[End] = []
    with listening(redis_url, heard, {}):
        wait_until(lambda: say(redis_client, "r1"), "a listener")
        wait_until(lambda: heard, "the cancellation")
    assert heard[0] == end("r1")


def test_messages_of_other_channels_go_their_own_way(redis_url: str, redis_client: redis.Redis) -> None:
    heard: list[End] = []
    said: list[bytes] = []
    with listening(redis_url, heard, {"rq:pubsub:w": said}):
        wait_until(lambda: redis_client.publish("rq:pubsub:w", b"command"), "a listener")
        wait_until(lambda: said == [b"command"], "the command")
    assert heard == []


def test_junk_and_what_another_key_or_purpose_has_sealed_is_passed_over(
    redis_url: str, redis_client: redis.Redis
) -> None:
    heard: list[End] = []
    with listening(redis_url, heard, {}):
        wait_until(lambda: redis_client.publish(CHANNEL, b"\xc1"), "a listener")
        ours = control_seal(WORKER)
        unfit = End(request_id=1, attempt="x", reason="")  # type: ignore[arg-type]
        for junk in (b"", wire.encode(end("r1")), *(ours.close(wire.encode(each)) for each in ("r1", ["r1"], unfit))):
            redis_client.publish(CHANNEL, junk)
        for other in (control_seal("h.another.e"), frame_seal(WORKER, WORKER), host_seal("h")):
            redis_client.publish(CHANNEL, other.close(wire.encode(end("r1"))))
        say(redis_client, "r2")
        wait_until(lambda: heard == [end("r2")], "only the real one")


def test_cancellations_are_heard_again_after_redis_was_away(redis_server: RedisServer) -> None:
    heard: list[End] = []
    with listening(redis_server.url, heard, {}):
        with redis.Redis.from_url(redis_server.url) as client:
            wait_until(lambda: say(client, "before"), "a listener")
        redis_server.restart()
        with redis.Redis.from_url(redis_server.url) as client:
            wait_until(lambda: say(client, "after"), "a listener again")
        wait_until(lambda: end("after") in heard, "the cancellation")


def test_a_listener_that_waits_for_what_is_said_ends_at_once(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "_WAIT_S", 3600.0)
    monkeypatch.setattr(cancellation, "_END_S", 3600.0)
    with listening(redis_url, [], {"rq:pubsub:w": []}):
        wait_until(lambda: say(redis_client, "r1"), "a listener")
