"""A request's events reach everyone who reads them, from the first one on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.readers import MOST_EVENT_BYTES, MOST_ID_BYTES, Told
from shared.errors import OverloadedError
from shared.events import Event, Failed, TextDelta, TokenLogprob
from shared.wire import FrameEntry
from tests.support.gateway import FINISHED, STARTED, new_dispatch, text, texts


def say(stream: Dispatch, seq: int, *events: Event) -> None:
    entry = FrameEntry(request_id="r1", attempt=1, seq=seq, token_ids=(), events=events)
    stream.take(entry, "worker", "epoch")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 40))


def test_waiting_ends_with_its_timeout() -> None:
    async def scenario() -> None:
        reader = new_dispatch().join()
        for timeout_s in (0.05, 0.01, 0.03, 0.0):
            began_s = time.monotonic()
            assert await reader.wait(timeout_s) == []
            assert timeout_s - 0.005 <= time.monotonic() - began_s < timeout_s + 5

    run(scenario())


def test_a_wait_is_not_cut_short_by_what_an_earlier_one_would_have_waited() -> None:
    async def scenario() -> None:
        stream = new_dispatch()
        reader = stream.join()
        waiting = asyncio.create_task(reader.wait(0.05))
        await asyncio.sleep(0)
        say(stream, 0, STARTED)
        assert await waiting == [STARTED]
        began_s = time.monotonic()
        assert await reader.wait(0.2) == []
        assert time.monotonic() - began_s > 0.19

    run(scenario())


def test_a_client_that_leaves_is_not_waited_for() -> None:
    async def scenario() -> None:
        stream = new_dispatch()
        reader = stream.join()
        waiting = asyncio.create_task(reader.wait(60))
        await asyncio.sleep(0)
        reader.abandon()
        assert await waiting == []
        assert reader.is_abandoned
        assert await reader.wait(60) == []

    run(scenario())


def test_a_reader_leaves_no_timer_behind() -> None:
    async def scenario() -> None:
        stream = new_dispatch()
        reader = stream.join()
        waiting = asyncio.create_task(reader.wait(3600))
        await asyncio.sleep(0)
        say(stream, 0, STARTED)
        await waiting
        alarm = reader._alarm
        assert alarm is not None
        stream.leave(reader)
        assert alarm.cancelled()

    run(scenario())


def test_whoever_comes_later_reads_everything_too() -> None:
    async def scenario() -> None:
        stream = new_dispatch()
        first = stream.join()
        say(stream, 0, STARTED, text("one "))
        second = stream.join()
        say(stream, 1, text("two"))
        say(stream, 2, FINISHED)
        assert await first.wait(1) == await second.wait(1) == [STARTED, text("one "), text("two"), FINISHED]

    run(scenario())


def test_who_leaves_takes_nothing_from_who_stays() -> None:
    async def scenario() -> None:
        stream = new_dispatch()
        first, second = stream.join(), stream.join()
        say(stream, 0, STARTED, text("one"))
        stream.leave(first)
        assert stream.is_read
        say(stream, 1, text(" two"))
        assert texts(await second.wait(1)) == "one two"
        stream.leave(second)
        assert not stream.is_read

    run(scenario())


def test_a_failure_is_told_to_all_and_to_who_comes_after_it() -> None:
    async def scenario() -> None:
        stream = new_dispatch()
        first = stream.join()
        stream.fail(OverloadedError("the gateway is restarting"))
        for reader in (first, stream.join()):
            (failed,) = await reader.wait(1)
            assert isinstance(failed, Failed)
        assert not stream.attempt.is_over

    run(scenario())


def test_an_answer_that_has_grown_long_can_not_be_joined_and_goes_on() -> None:
    async def scenario() -> None:
        stream = new_dispatch()
        reader = stream.join()
        say(stream, 0, STARTED)
        half = text("w" * (MOST_EVENT_BYTES // 2))
        say(stream, 1, half)
        assert stream.may_be_joined
        say(stream, 2, half)
        assert not stream.may_be_joined
        say(stream, 3, FINISHED)
        assert await reader.wait(1) == [STARTED, half, half, FINISHED]
        assert stream.attempt.is_over

    run(scenario())


def test_logprobs_count_among_the_bytes_of_an_answer() -> None:
    alternatives = tuple(TokenLogprob(token="a", logprob=-1.0) for _ in range(20))
    event = TextDelta(text="a", logprobs=(TokenLogprob(token="a", logprob=-1.0, top=alternatives),))
    told = Told()
    told.push([event] * (MOST_EVENT_BYTES // 5000))
    assert not told.is_whole


def test_token_ids_are_kept_within_their_budget() -> None:
    told = Told()
    told.note_ids((1, 2))
    told.note_ids((3,))
    assert told.token_ids == (1, 2, 3)
    told.note_ids((7,) * (MOST_ID_BYTES // 4))
    assert told.token_ids is None
    told.forget_ids()
    assert told.token_ids == ()
