"""The frame hub on a real Redis: what a worker said reaches its client whole and in order, or the client is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from gateway.dispatch.facts import Placed
from gateway.dispatch.readers import EventReader
from shared import wire
from shared.errors import OverloadedError
from shared.events import Event, Failed, Progress, ToolCallStarted
from shared.redis_server import RedisServer
from shared.seal import Purpose
from shared.wire import Frame
from tests.support.gateway import (
    DEADLINE_S,
    FINISHED,
    STARTED,
    HandWorker,
    Parts,
    Scenario,
    collect,
    opened,
    player,
    running_parts,
    text,
    texts,
    until,
    until_true,
)
from tests.support.names import NAMES
from tests.support.sealed import KEYRING, frame_seal, host_seal


@pytest.fixture
def play(redis_url: str) -> Callable[[Scenario], None]:
    return player(redis_url, with_watchdog=False)


def test_events_reach_the_request_they_belong_to(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts, "r1") as one, opened(parts, "r2") as two:
            await worker.send(worker.entry("r1", STARTED, text("a")), worker.entry("r2", STARTED, text("b")))
            await worker.send(worker.entry("r2", text("c"), FINISHED), worker.entry("r1", FINISHED))
            assert texts(await collect(one, 9)) == "a"
            assert texts(await collect(two, 9)) == "bc"
            assert one.attempt.is_over
            assert (one.attempt.worker, one.attempt.epoch, one.stage) == ("host.m.e1", "e1", "decode")
        assert parts.hub.dispatches == {}

    play(scenario)


def test_a_frame_lost_on_the_channel_is_repaired_in_order(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            await worker.say("r1", STARTED, text("1"))
            for word in ("2", "3", "4"):
                await worker.log(worker.frame(worker.entry("r1", text(word))))
            await worker.say("r1", text("5"))
            await worker.say("r1", text("6"), FINISHED)
            assert texts(await collect(stream, 9)) == "123456"
        assert parts.gaps == [True]

    play(scenario)


def test_the_very_first_frame_may_be_the_lost_one(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            await worker.log(worker.frame(worker.entry("r1", STARTED, text("1"))))
            await worker.say("r1", text("2"), FINISHED)
            assert texts(await collect(stream, 9)) == "12"

    play(scenario)


def test_a_beat_shows_that_the_last_frame_was_lost(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            await worker.say("r1", STARTED, text("1"))
            await worker.log(worker.frame(worker.entry("r1", text("2"), FINISHED)))
            await worker.beat()
            assert texts(await collect(stream, 9)) == "12"
        assert parts.gaps == [True]

    play(scenario)


def test_frames_and_entries_that_come_twice_count_once(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            first = worker.frame(worker.entry("r1", STARTED, text("1")))
            entry = worker.entry("r1", text("2"))
            for frame in (first, first, worker.frame(entry), worker.frame(entry)):
                await worker.publish(frame)
            await worker.say("r1", FINISHED)
            assert texts(await collect(stream, 9)) == "12"
        assert parts.gaps == []

    play(scenario)


def test_entries_of_other_attempts_are_dropped(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        old, new = parts.worker("host.a.e1"), parts.worker("host.b.e2", "e2")
        with opened(parts, attempt=2) as stream:
            await old.send(old.entry("r1", STARTED, text("old"), attempt=1))
            await new.send(new.entry("r1", STARTED, text("new"), attempt=2))
            await old.send(old.entry("r1", text("old"), FINISHED, attempt=1))
            await new.send(new.entry("r1", FINISHED, attempt=2))
            assert texts(await collect(stream, 9)) == "new"

    play(scenario)


def test_only_a_host_that_was_given_the_request_answers_it(play: Callable[[Scenario], None]) -> None:
    """A host's seal is good for what its own workers say, not for a request that another host has."""

    async def scenario(parts: Parts) -> None:
        worker, other = parts.worker(), parts.worker("other.m.e9", "e9")
        await parts.hub.listen_to(["other"])
        with opened(parts) as stream:
            await until_true(lambda: other.say("r1", STARTED, text("false"), FINISHED), "somebody who listens")
            await until(lambda: parts.refused == [True], "the false answer is dropped")
            await worker.say("r1", STARTED, text("true"))
            await other.say("r1", text("false"), FINISHED)
            await until(lambda: parts.refused == [True, True], "the false end is dropped")
            await worker.say("r1", FINISHED)
            assert texts(await collect(stream, 9)) == "true"

    play(scenario)


def test_a_request_that_moves_is_answered_from_where_it_is_going(play: Callable[[Scenario], None]) -> None:
    """Who takes it there may be faster than Redis's word that it has been moved."""

    async def scenario(parts: Parts) -> None:
        worker = parts.worker("other.m.e9", "e9")
        await parts.hub.listen_to(["other"])
        with opened(parts) as stream:
            stream.attempt.allow(Placed(lane="interactive", worker=worker.worker))
            await until_true(lambda: worker.say("r1", STARTED, text("moved"), FINISHED), "somebody who listens")
            assert texts(await collect(stream, 9)) == "moved"
        assert parts.refused == []

    play(scenario)


def test_a_second_worker_may_take_over_until_an_answer_has_started(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        first, second, third = (
            parts.worker("host.a.e1"),
            parts.worker("host.b.e2", "e2"),
            parts.worker("host.c.e3", "e3"),
        )
        with opened(parts) as stream:
            await first.say("r1", Progress(phase="queued"))
            await second.say("r1", STARTED, text("second"))
            await first.say("r1", STARTED, text("first"))
            await third.say("r1", STARTED, text("third"))
            await second.say("r1", FINISHED)
            assert texts(await collect(stream, 9)) == "second"
            assert stream.attempt.worker == "host.b.e2"

    play(scenario)


def test_what_can_not_be_repaired_fails_the_request_and_is_never_skipped(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts, "r1") as broken, opened(parts, "r2") as whole:
            await worker.send(worker.entry("r1", STARTED), worker.entry("r2", STARTED))
            worker.frame(worker.entry("r1", text("lost")))  # neither logged nor published
            await worker.send(worker.entry("r1", text("after")), worker.entry("r2", text("fine")))
            await worker.send(worker.entry("r1", FINISHED), worker.entry("r2", FINISHED))
            events = await collect(broken, 9)
            assert texts(events) == ""
            assert isinstance(events[-1], Failed)
            assert events[-1].code == "worker_lost"
            assert not broken.attempt.is_over
            assert texts(await collect(whole, 9)) == "fine"
        assert parts.gaps == [False]

    play(scenario)


def test_a_frame_that_does_not_decode_is_repaired_like_a_lost_one(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            await worker.log(worker.frame(worker.entry("r1", STARTED, text("1"))))
            await parts.client.publish(NAMES.gateway_channel(parts.hub.gateway_id, "host"), b"\xc1 not msgpack")
            await worker.say("r1", text("2"), FINISHED)
            assert texts(await collect(stream, 9)) == "12"

    play(scenario)


def test_who_waits_for_a_first_token_is_served_before_the_streams_that_run(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        names = [f"r{number}" for number in range(30)]
        woken: list[str] = []

        async def listen(name: str, reader: EventReader) -> None:
            await reader.wait(DEADLINE_S)
            woken.append(name)

        with contextlib.ExitStack() as stack:
            readers = {name: stack.enter_context(opened(parts, name)).join() for name in names}
            feed(parts, worker, names, STARTED, text("a"))
            for reader in readers.values():
                assert await reader.wait(DEADLINE_S)
            readers["new"] = stack.enter_context(opened(parts, "new")).join()
            async with asyncio.TaskGroup() as tasks:
                for name, reader in readers.items():
                    tasks.create_task(listen(name, reader))
                await asyncio.sleep(0)
                feed(parts, worker, [*names, "new"], text("b"))
            assert woken == ["new", *names]

    play(scenario)


def test_frames_that_come_faster_than_they_are_passed_on_stay_in_order(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        names = [f"r{number}" for number in range(30)]
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(opened(parts, name)) for name in names]
            for events in ([STARTED], [text("a")], [text("b")], [text("c"), FINISHED]):
                feed(parts, worker, names, *events)
            for stream in streams:
                assert texts(await collect(stream, 9)) == "abc"

    play(scenario)


def feed(parts: Parts, worker: HandWorker, names: Sequence[str], *events: Event) -> None:
    """One frame in which every named request gets these events and a token."""
    entries = [worker.entry(name, *events, token_ids=(1,)) for name in names]
    parts.hub.feed("host", worker.sealed(worker.frame(*entries)))


def test_two_workers_are_numbered_apart(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        one, two = parts.worker("host.a.e1"), parts.worker("host.b.e2", "e2")
        with opened(parts, "r1") as first, opened(parts, "r2") as second:
            await one.say("r1", STARTED, text("a"))
            await two.say("r2", STARTED, text("b"))
            await two.say("r2", FINISHED)
            await one.say("r1", FINISHED)
            assert texts(await collect(first, 9)) == "a"
            assert texts(await collect(second, 9)) == "b"
        assert parts.gaps == []

    play(scenario)


def test_a_killed_subscription_loses_nothing(play: Callable[[Scenario], None]) -> None:
    """Twenty times in one answer, at any moment."""

    async def speak(worker: HandWorker, words: list[str]) -> None:
        for number, word in enumerate(words):
            await worker.say("r1", text(word))
            if number % 10 == 5:
                await worker.client.client_kill_filter(_type="pubsub")
            await asyncio.sleep(0.001)
        await worker.say("r1", FINISHED)

    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        words = [f"{number} " for number in range(200)]
        with opened(parts) as stream:
            await worker.say("r1", STARTED)
            speaking = asyncio.create_task(speak(worker, words))
            events = await collect(stream, 999)
            await speaking
            assert texts(events) == "".join(words)
            assert events[-1] == FINISHED
        assert set(parts.gaps) == {True}

    play(scenario)


def test_an_end_that_was_said_while_the_subscription_was_away_comes_with_the_reconnection(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            await worker.say("r1", STARTED)
            await collect(stream, 1)
            parts.hub.reconnect()
            await until(lambda: not parts.hub.is_connected, "the end of the subscription")
            await worker.say("r1", text("unheard"), FINISHED)
            assert texts(await collect(stream, 9)) == "unheard"

    play(scenario)


def test_the_hub_knows_whether_it_is_connected_and_comes_back_after_a_restart(
    redis_server: RedisServer,
) -> None:
    async def main() -> None:
        async with running_parts(redis_server.url, with_watchdog=False) as parts:
            await asyncio.to_thread(redis_server.restart)
            await until(lambda: parts.hub.connected_s and parts.hub.connected_s < 5, "the hub's return")
            worker = parts.worker()
            await until_true(lambda: worker.beat(), "somebody who listens")
            with opened(parts) as stream:
                await worker.say("r1", STARTED, text("still here"), FINISHED)
                assert texts(await collect(stream, 9)) == "still here"

    asyncio.run(main())


def test_all_requests_can_be_failed_at_once_and_stay_failed(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            parts.hub.fail_all(OverloadedError("the gateway is restarting"))
            await worker.say("r1", STARTED, FINISHED)
            events = await collect(stream, 9)
            assert [type(event) for event in events] == [Failed]
            assert len(await collect(stream, 9)) == 1

    play(scenario)


# --- who may say it -------------------------------------------------------------------------------------------------

EVIL = ToolCallStarted(index=0, id="toolu_1", name="Bash")


@pytest.mark.parametrize("speaker", ["nobody", "another host", "another gateway's", "a host's record", "version 2"])
def test_a_forged_frame_reaches_no_client(play: Callable[[Scenario], None], speaker: str) -> None:
    async def scenario(parts: Parts) -> None:
        worker, gateway = parts.worker(), parts.hub.gateway_id
        with opened(parts) as stream:
            await worker.say("r1", STARTED)
            data = wire.encode_frame(replace(worker.frame(worker.entry("r1", EVIL)), seq=2))
            forged = {
                "nobody": data,
                "another host": frame_seal("evil.m.e1", gateway).close(data),
                "another gateway's": frame_seal("host.m.e1", "gw2").close(data),
                "a host's record": host_seal("host").close(data),
                "version 2": b"\x92\x02" + data[1:],
            }
            await parts.client.publish(NAMES.gateway_channel(gateway, "host"), forged[speaker])
            worker.seq, worker.entry_seqs["r1"] = 1, 1
            await worker.say("r1", text("mine"), FINISHED)
            events = await collect(stream, 9)
            assert EVIL not in events
            assert texts(events) == "mine"
        assert parts.refused == [True]

    play(scenario)


def test_a_host_cannot_speak_for_the_worker_of_another(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker, gateway = parts.worker(), parts.hub.gateway_id
        with opened(parts) as stream:
            await worker.say("r1", STARTED)
            forged = worker.entry("r1", EVIL)
            stolen = wire.encode_frame(Frame(worker="host.m.e1", epoch="e1", seq=2, entries=(forged,)))
            parts.hub.feed("evil", frame_seal("evil.m.e1", gateway).close(stolen))
            parts.hub.feed("", KEYRING.anyone.seal(Purpose.FRAME, gateway).close(stolen))
            worker.entry_seqs["r1"] = 1
            await worker.say("r1", FINISHED)
            assert EVIL not in await collect(stream, 9)
        assert parts.refused == [True, True]

    play(scenario)


async def _moved(parts: Parts, worker: HandWorker, old: Frame, to_seq: int) -> None:
    """A true frame of this worker to this gateway, put into its log under another number."""
    key = NAMES.frame_log(worker.worker, worker.gateway)
    await parts.client.xadd(key, {"f": worker.sealed(old)}, id=f"{to_seq}-0")


def test_a_replayed_row_counts_only_under_its_own_number(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            first = worker.frame(worker.entry("r1", STARTED, text("once ")))
            await worker.log(first)
            await worker.publish(first)
            worker.frame()  # number 2 is lost, and the old frame stands in its place
            await _moved(parts, worker, first, 2)
            await worker.send(worker.entry("r1", text("twice"), FINISHED))
            assert texts(await collect(stream, 9)) == "once twice"
        assert parts.refused == [True]
        assert parts.gaps == [False]

    play(scenario)


def test_a_row_that_was_moved_back_does_not_turn_the_numbers_back(play: Callable[[Scenario], None]) -> None:
    """Whoever writes to the log could let a gateway hear the rest of a log again and again."""

    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            frames = [worker.frame(worker.entry("r1", event)) for event in (STARTED, text("a"), text("b"))]
            for frame in frames:
                await worker.publish(frame)
            await until(lambda: stream.attempt.next_seq == 3, "all are heard")
            await _moved(parts, worker, frames[0], 4)
            worker.seq = 4
            await worker.send(worker.entry("r1", FINISHED))
            assert texts(await collect(stream, 9)) == "ab"
            assert parts.hub._sources["host.m.e1"].last_seq == 5
        assert parts.refused == [True]

    play(scenario)
