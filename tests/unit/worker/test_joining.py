"""Another gateway comes to hear an answer that a worker is giving: all of it, and whoever leaves ends only itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.errors import RequestCancelledError
from shared.events import Failed, Finished, Returned, Started, TextDelta
from shared.request import Join
from shared.work import Generate
from tests.support.processes import wait_until
from tests.support.worker import TestGateway, build_request
from tests.unit.worker.test_runner import Bench, bench_with, build_echo

_LEFT = RequestCancelledError("the client left")


@pytest.fixture
def bench(redis_url: str) -> Iterator[Bench]:
    with bench_with(redis_url, build_echo(step_ms=5)) as bench:
        yield bench


@pytest.fixture
def other(redis_url: str) -> Iterator[TestGateway]:
    with TestGateway(redis_url, "gw2") as gateway:
        yield gateway


def _ask(bench: Bench, words: int, *, is_shared: bool = True) -> None:
    """Until it has said something."""
    work = Generate(request=build_request(f"echo:words {words}"), is_shared=is_shared)
    bench.runner.submit(bench.store_work(work))
    bench.gateway.wait_for(TextDelta)


def _join(bench: Bench, request_id: str = "r1") -> None:
    bench.runner.join(Join(request_id=request_id, heard_as="r2", gateway="gw2"))


def _ids(gateway: TestGateway, request_id: str) -> list[int]:
    entries = [entry for _, frame in gateway.frames for entry in frame.entries if entry.request_id == request_id]
    return [token for entry in entries for token in entry.token_ids]


def test_both_gateways_hear_the_whole_answer_and_the_same_tokens(bench: Bench, other: TestGateway) -> None:
    _ask(bench, 60)
    _join(bench)
    assert isinstance(other.wait_end("r2"), Finished)
    assert other.completion("r2").parts == bench.gateway.completion().parts
    assert _ids(other, "r2") == _ids(bench.gateway, "r1")
    assert other.entry_seqs("r2", 0) == list(range(len(other.entry_seqs("r2", 0))))
    assert isinstance(other.events("r2")[0], Started) or isinstance(other.wait_for(Started, "r2"), Started)


def test_who_asked_first_leaves_and_the_other_hears_the_end(bench: Bench, other: TestGateway) -> None:
    _ask(bench, 60)
    _join(bench)
    other.wait_for(TextDelta, "r2")
    assert bench.runner.leave("r1", _LEFT, up_to_attempt=1)
    assert not bench.runner.leave("r1", _LEFT, up_to_attempt=1)  # as the beat says again and again
    assert isinstance(other.wait_end("r2"), Finished)
    assert not any(isinstance(event, Finished) for event in bench.gateway.events())


def test_who_joined_leaves_and_the_first_hears_the_end(bench: Bench, other: TestGateway) -> None:
    _ask(bench, 60)
    _join(bench)
    other.wait_for(TextDelta, "r2")
    assert bench.runner.leave("r2", _LEFT, up_to_attempt=0)
    assert isinstance(bench.gateway.wait_end(), Finished)
    assert not any(isinstance(event, Finished | Failed) for event in other.events("r2"))


@pytest.mark.parametrize("order", [("r1", "r2"), ("r2", "r1")])
def test_the_work_ends_when_the_last_has_left(bench: Bench, other: TestGateway, order: tuple[str, str]) -> None:
    _ask(bench, 100_000)
    _join(bench)
    other.wait_for(TextDelta, "r2")
    for name in order:
        assert bench.runner.leave(name, _LEFT)
    wait_until(lambda: not bench.runner.in_flight, "it is cancelled")


def test_a_gateway_that_is_gone_takes_only_itself_along(bench: Bench, other: TestGateway) -> None:
    _ask(bench, 60)
    _join(bench)
    other.wait_for(TextDelta, "r2")
    bench.runner.cancel_gateway(bench.gateway.name)
    assert isinstance(other.wait_end("r2"), Finished)


def test_what_does_not_run_or_was_not_to_be_shared_cannot_be_joined(bench: Bench, other: TestGateway) -> None:
    _ask(bench, 60, is_shared=False)
    _join(bench)
    assert isinstance(other.wait_end("r2"), Returned)
    bench.gateway.wait_end()
    bench.runner.join(Join(request_id="nobody", heard_as="r3", gateway="gw2"))
    assert isinstance(other.wait_end("r3"), Returned)


def test_an_operator_ends_it_for_all(bench: Bench, other: TestGateway) -> None:
    _ask(bench, 100_000)
    _join(bench)
    other.wait_for(TextDelta, "r2")
    assert bench.runner.cancel("r1", RequestCancelledError("stopped by an operator"))
    for gateway, name in ((bench.gateway, "r1"), (other, "r2")):
        end = gateway.wait_end(name)
        assert isinstance(end, Failed)
        assert "operator" in end.message
