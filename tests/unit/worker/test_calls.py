"""Counting is answered beside everything else, and always answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from shared import wire
from shared.clock import RedisClock
from shared.errors import InvalidRequestError, PromptTooLongError
from shared.events import Failed, Started
from shared.request import Envelope, GenerateRequest
from shared.seal import keys_of_host
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.sealed import SECRET
from tests.support.worker import MODEL, TestGateway, build_request, sign
from worker.engines.echo_script import count_words
from worker.serving.counting import CallServer
from worker.serving.publisher import Publisher


class PanicError(BaseException):
    """As PyO3 raises it when a tokenizer's Rust code panics."""


@contextmanager
def serving(url: str, count: Callable[[GenerateRequest], int]) -> Iterator[CallServer]:
    client = redis.Redis.from_url(url)
    keys = keys_of_host(SECRET.encode(), "w")
    publisher = Publisher(client, NAMES, keys.own, worker="w", epoch="e")
    server = CallServer(client, NAMES, publisher, count, model=MODEL, worker="w", clock=RedisClock(), key=keys.anyone)
    publisher.start()
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.join()
        publisher.close()


@pytest.fixture
def gateway(redis_url: str) -> Iterator[TestGateway]:
    with TestGateway(redis_url) as gateway:
        yield gateway


def test_a_call_is_answered_with_the_count_and_the_worker(redis_url: str, gateway: TestGateway) -> None:
    with serving(redis_url, count_words):
        gateway.count("one two three")
        started = gateway.wait_for(Started, "c1")
    assert (started.usage.input_tokens, started.worker, gateway.entry_seqs("c1")) == (3, "w", [0])


def test_calls_are_answered_side_by_side(redis_url: str, gateway: TestGateway) -> None:
    together = threading.Barrier(4)

    def count(request: GenerateRequest) -> int:
        together.wait(10)  # ends only when four are being counted at once
        return 1

    with serving(redis_url, count):
        for number in range(8):
            gateway.count("x", f"c{number}")
        assert [gateway.counted(f"c{number}") for number in range(8)] == [1] * 8


def test_a_prompt_that_cannot_be_counted_says_why(redis_url: str, gateway: TestGateway) -> None:
    def count(request: GenerateRequest) -> int:
        raise PromptTooLongError.of(9, 8)

    with serving(redis_url, count):
        gateway.count("x")
        failed = gateway.wait_for(Failed, "c1")
    assert (failed.code, failed.details) == ("prompt_too_long", {"prompt_tokens": 9, "context_tokens": 8})


@pytest.mark.parametrize("kind", [KeyError, PanicError])
def test_an_unexpected_error_is_an_internal_one_without_its_text(
    redis_url: str, gateway: TestGateway, kind: type[BaseException]
) -> None:
    def count(request: GenerateRequest) -> int:
        raise kind("a secret prompt")

    with serving(redis_url, count):
        gateway.count("x")
        failed = gateway.wait_for(Failed, "c1")
    assert failed.code == "internal"
    assert "secret" not in failed.message


def test_an_error_that_does_not_travel_is_told_without_its_text(redis_url: str, gateway: TestGateway) -> None:
    def count(request: GenerateRequest) -> int:
        raise InvalidRequestError("half of a pair: \ud800")

    with serving(redis_url, count):
        gateway.count("x")
        assert gateway.wait_for(Failed, "c1").code == "internal"
    assert gateway.entry_seqs("c1") == [0]


def test_a_wrong_signature_is_refused(redis_url: str, gateway: TestGateway) -> None:
    with serving(redis_url, count_words):
        gateway.count("x", secret="another")
        assert gateway.wait_for(Failed, "c1").code == "wire"


def test_a_call_nobody_waits_for_is_not_counted(redis_url: str, gateway: TestGateway) -> None:
    counted: list[str] = []
    body = wire.encode(Envelope(request=build_request("x", "c1"), gateway="gw1", deadline_s=time.time() - 1))
    signature = sign("c1", 1, body)
    with serving(redis_url, lambda request: counted.append(request.id) or 1):
        gateway.client.rpush(NAMES.calls(MODEL), wire.encode([signature, body]))
        assert gateway.wait_for(Failed, "c1").code == "deadline_exceeded"
    assert counted == []


def test_calls_taken_by_a_worker_that_stops_are_answered_with_a_retryable_error(
    redis_url: str, gateway: TestGateway
) -> None:
    go = threading.Event()
    with serving(redis_url, lambda request: int(go.wait(10))) as server:
        for number in range(20):
            gateway.count("x", f"c{number}")
        wait_until(lambda: not gateway.client.exists(NAMES.calls(MODEL)), "all are taken")
        server.stop()
        go.set()
        ends = [gateway.wait_for(Started | Failed, f"c{n}") for n in range(20)]  # type: ignore[arg-type]
    late = [end.error() for end in ends if isinstance(end, Failed)]
    assert late
    assert all(error.code == "worker_lost" and error.retryable for error in late)


def test_bytes_that_are_no_call_are_passed_over(redis_url: str, gateway: TestGateway) -> None:
    with serving(redis_url, count_words):
        for junk in (b"", b"\x80\x04pickle", wire.encode([]), wire.encode(["s", b"not an envelope"])):
            gateway.client.rpush(NAMES.calls(MODEL), junk)
        gateway.count("one")
        assert gateway.counted() == 1
