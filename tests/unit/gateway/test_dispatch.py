"""A request whose worker is lost is given to another, from the beginning or at the next token; its client hears one
answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.dispatch.decision import MOST_ATTEMPTS, MOST_BUSY
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.facts import Placed
from shared.errors import (
    BrokerUnavailableError,
    GatewayError,
    InternalError,
    OverloadedError,
    WireError,
    WorkerLostError,
)
from shared.events import Event, Failed, Finished, Progress, ReasoningDelta, Returned, Started, Usage, assemble
from shared.request import Resume
from shared.wire import FrameEntry
from shared.work import PROBATION_TOKENS
from tests.support.gateway import FINISHED, STARTED, new_dispatch, text, texts

QUEUED, PREFILLING = Progress(phase="queued"), Progress(phase="prefill")
LOST = WorkerLostError("worker a stopped", worker="a")
STARTED_COLD = Started(usage=Usage(input_tokens=3), worker="b")


class FewWorkers:
    """Workers `a`, `b`, …; what is sent to them is put down."""

    def __init__(self, *workers: str) -> None:
        self.workers = workers
        self.sent: list[tuple[int, str]] = []
        self.ended: list[int] = []
        self.tried: list[frozenset[str]] = []
        self.wait_s: float | None = None
        self.has_suspects = False
        self.deaths = 0
        self.cleared = 0

    def other_place(self, dispatch: Dispatch) -> Placed | None:
        self.tried.append(dispatch.tried)
        others = [worker for worker in self.workers if worker not in dispatch.tried]
        return Placed(lane="interactive", worker=others[0], wait_s=self.wait_s) if others else None

    def waiting_place(self, dispatch: Dispatch) -> Placed:
        return Placed(lane="interactive")

    def end(self, dispatch: Dispatch) -> None:
        self.ended.append(dispatch.attempt.number)

    def is_held_back(self, dispatch: Dispatch) -> bool:
        return self.has_suspects

    def died_of(self, dispatch: Dispatch) -> None:
        self.deaths += 1

    def clear(self, dispatch: Dispatch) -> None:
        self.cleared += 1

    def send(self, dispatch: Dispatch) -> None:
        place = dispatch.attempt.place
        assert place is not None
        self.sent.append((dispatch.attempt.number, place.worker))


class Play:
    """A dispatch, its reader, and workers who say what they are told to."""

    def __init__(self, *workers: str, **fields: Any) -> None:
        self.ways = FewWorkers(*workers)
        self.dispatch = new_dispatch(ways=self.ways, **fields)
        self.reader = self.dispatch.join()
        self._said: dict[tuple[str, int], int] = {}

    def say(self, worker: str, *events: Event, attempt: int = 1, ids: tuple[int, ...] = ()) -> None:
        seq = self._said.get((worker, attempt), 0)
        self._said[worker, attempt] = seq + 1
        entry = FrameEntry(request_id="r1", attempt=attempt, seq=seq, token_ids=ids, events=events)
        self.dispatch.take(entry, worker, "e")

    async def heard(self) -> list[Event]:
        return await self.reader.wait(1)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 40))


def failures(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Failed)]


@pytest.mark.parametrize("before", [(), (QUEUED,), (QUEUED, PREFILLING), (QUEUED, STARTED), (STARTED, PREFILLING)])
@pytest.mark.parametrize("how", ["died", "gave it back"])
def test_before_the_first_word_another_worker_answers_and_the_client_hears_one_answer(
    before: tuple[Event, ...], how: str
) -> None:
    async def scenario() -> None:
        play = Play("a", "b")
        if before:
            play.say("a", *before)
        if how == "died":
            play.dispatch.lose(LOST)
        else:
            play.say("a", Failed.of(WorkerLostError("the worker is stopping", worker="a")))
        assert play.ways.sent == [(2, "b")]
        assert play.dispatch.stage == "queued"
        play.say("b", QUEUED, STARTED_COLD, text("from b"), FINISHED, attempt=2)
        events = await play.heard()
        assert texts(events) == "from b"
        assert assemble(events).usage == FINISHED.usage
        assert play.dispatch.has_ended

    run(scenario())


def test_a_worker_that_is_only_suspected_keeps_the_request_while_no_other_can_begin_at_once() -> None:
    async def scenario() -> None:
        for wait_s, is_moved in ((None, False), (10.0, False), (0.5, True)):
            play = Play("a", "b")
            play.ways.wait_s = wait_s
            play.say("a", STARTED, text("said"), ids=(1,))
            play.dispatch.suspect(LOST)
            assert bool(play.ways.sent) == is_moved
            assert not play.dispatch.has_ended
        play.say("b", text(" and gone on with"), FINISHED, attempt=2, ids=(2,))
        play.say("a", text(" twice"), ids=(2,))
        assert texts(await play.heard()) == "said and gone on with"

    run(scenario())


def test_a_request_leaves_one_engine_that_hangs_and_no_second_for_that() -> None:
    play = Play("a", "b", "c")
    play.ways.wait_s = 0.0
    hang = WorkerLostError("the engine of worker a makes no progress", worker="a", is_hang=True)
    play.say("a", QUEUED)
    play.dispatch.suspect(hang)
    assert play.ways.sent == [(2, "b")]
    play.say("b", QUEUED, attempt=2)
    play.dispatch.suspect(hang)
    assert play.ways.sent == [(2, "b")]
    play.dispatch.suspect(LOST)  # it was not heard
    assert play.ways.sent == [(2, "b"), (3, "c")]


def test_the_prompt_that_was_in_hand_when_an_engine_hung_is_not_given_to_another() -> None:
    play = Play("a", "b")
    play.ways.wait_s = 0.0
    play.say("a", QUEUED, PREFILLING)
    play.dispatch.suspect(WorkerLostError("the engine makes no progress", is_hang=True))
    assert play.ways.sent == []
    play.dispatch.lose(WorkerLostError("the worker has ended", worker="a"))
    assert play.ways.sent == [(2, "b")]


def test_who_goes_on_elsewhere_may_leave_the_next_engine_that_hangs_too() -> None:
    play = Play("a", "b", "c")
    play.ways.wait_s = 0.0
    hang = WorkerLostError("the engine makes no progress", is_hang=True)
    play.say("a", STARTED, text("w"), ids=(1,))
    play.dispatch.suspect(hang)
    assert play.dispatch.is_suspect
    play.say("b", text("ord"), attempt=2, ids=tuple(range(PROBATION_TOKENS)))
    play.dispatch.suspect(hang)
    assert play.ways.sent == [(2, "b"), (3, "c")]


def test_suspicion_fails_nothing_that_cannot_go_on_elsewhere() -> None:
    play = Play("a", "b")
    play.ways.wait_s = 0.0
    play.say("a", STARTED, text("said without ids"))
    play.dispatch.suspect(LOST)
    assert not play.dispatch.has_ended
    assert play.ways.sent == []


def test_what_redis_forgot_in_the_queue_is_sent_again_and_counts_as_no_try() -> None:
    play = Play()
    for number in range(2, MOST_ATTEMPTS + 3):
        play.dispatch.take_back(BrokerUnavailableError("Redis was restarted and lost the request"))
        assert play.ways.sent[-1] == (number, "")
        assert play.ways.ended[-1] == number - 1, "should the job still be somewhere, it must not run"
    assert not play.dispatch.has_ended


def death(requests: int, suspects: int) -> WorkerLostError:
    return WorkerLostError("worker stopped", died_with=requests, died_suspects=suspects)


def test_a_request_that_was_alone_with_two_deaths_is_not_run_again() -> None:
    async def scenario() -> None:
        play = Play("a", "b", "c")
        play.say("a", QUEUED)
        play.dispatch.lose(death(1, 0))
        assert play.dispatch.is_suspect
        play.say("b", QUEUED, attempt=2)
        play.dispatch.lose(death(3, 1))  # beside two that are innocent
        assert play.ways.sent == [(2, "b")]
        assert play.ways.deaths == 2
        [failed] = [event for event in await play.heard() if isinstance(event, Failed)]
        assert failed.code == "quarantined"

    run(scenario())


def test_who_was_there_with_others_is_a_suspect_and_runs_again() -> None:
    play = Play("a", "b", "c")
    play.say("a", QUEUED)
    play.dispatch.lose(death(8, 0))
    assert play.dispatch.is_suspect
    play.say("b", QUEUED, attempt=2)
    play.dispatch.lose(death(2, 2))  # another gateway had put a suspect there, too
    assert play.ways.sent == [(2, "b"), (3, "c")]
    assert play.ways.deaths == 0
    assert not play.dispatch.has_ended


def test_a_suspect_that_goes_on_is_none_any_more_and_is_not_charged_with_anothers_deaths() -> None:
    play = Play(*"abcdefg")
    play.say("a", STARTED, text("w"), ids=(1,))
    play.dispatch.lose(death(8, 0))
    for number, worker in enumerate("bcde", 2):
        assert play.dispatch.is_suspect
        play.say(worker, text("ord"), attempt=number, ids=tuple(range(PROBATION_TOKENS)))
        assert not play.dispatch.is_suspect
        play.dispatch.lose(death(2, 1))  # the other was the suspect
    assert play.ways.cleared == 4
    assert play.ways.deaths == 0
    assert not play.dispatch.has_ended


def test_a_suspect_waits_while_all_others_have_one() -> None:
    play = Play("a")
    play.ways.has_suspects = True
    play.say("a", QUEUED)
    play.dispatch.lose(death(8, 0))
    assert play.ways.sent == [(2, "")]


def test_a_worker_that_left_or_froze_makes_no_suspect() -> None:
    play = Play("a", "b")
    play.say("a", QUEUED)
    play.dispatch.lose(LOST)
    assert not play.dispatch.is_suspect


LEAVING = Returned.of("leaving", WorkerLostError("the worker is stopping", worker="a"))
BUSY = Returned.of("busy", OverloadedError("all places are taken"))
UNABLE = Returned.of("unable", WorkerLostError("this engine cannot", worker="a"))


@pytest.mark.parametrize("returned", [LEAVING, BUSY, UNABLE])
def test_what_comes_back_unbegun_goes_to_another_worker_and_counts_as_no_try(returned: Returned) -> None:
    async def scenario() -> None:
        workers = [f"w{number}" for number in range(MOST_ATTEMPTS + 2)]
        play = Play(*workers)
        for number, worker in enumerate(workers[:-1], 1):
            play.say(worker, QUEUED, returned, attempt=number)
        last = len(workers)
        assert play.ways.sent[-1] == (last, workers[-1])
        assert play.ways.ended == []  # they ended it themselves
        play.say(workers[-1], STARTED, text("at last"), FINISHED, attempt=last)
        events = await play.heard()
        assert (texts(events), failures(events)) == ("at last", [])
        assert not any(isinstance(event, Returned) for event in events)

    run(scenario())


@pytest.mark.parametrize(("returned", "again"), [(LEAVING, False), (BUSY, True)])
def test_without_another_worker_it_waits_for_one_and_only_who_was_busy_may_be_asked_again(
    returned: Returned, again: bool
) -> None:
    async def scenario() -> None:
        play = Play("a")
        play.say("a", QUEUED, returned)
        assert play.ways.sent == [(2, "")]
        assert ("a" in play.dispatch.avoided) is not again
        play.say("b", STARTED, text("from b"), FINISHED, attempt=2)
        assert texts(await play.heard()) == "from b"

    run(scenario())


def test_what_nobody_can_do_is_said_in_the_words_of_the_last_who_could_not() -> None:
    async def scenario() -> None:
        play = Play("a")
        play.say("a", QUEUED, UNABLE)
        events = await play.heard()
        assert (failures(events), play.dispatch.has_ended) == (["this engine cannot"], True)
        assert play.ways.sent == []

    run(scenario())


def test_a_worker_that_stays_busy_is_waited_for_a_moment_only() -> None:
    async def scenario() -> None:
        play = Play("a")
        for number in range(1, MOST_BUSY + 1):
            play.say("a", BUSY, attempt=number)
            assert not play.dispatch.has_ended
        play.say("a", BUSY, attempt=MOST_BUSY + 1)
        assert failures(await play.heard()) == ["all places are taken"]

    run(scenario())


def test_an_answer_under_way_goes_on_elsewhere_when_the_second_worker_leaves_before_it_began() -> None:
    async def scenario() -> None:
        play = Play("a", "b", "c")
        play.say("a", STARTED, ids=(1,))
        play.say("a", text("half "), ids=(2,))
        play.dispatch.lose(LOST)
        play.say("b", LEAVING, attempt=2)
        assert play.ways.sent == [(2, "b"), (3, "c")]
        assert play.dispatch.attempt.resume is not None
        assert play.dispatch.attempt.resume.token_ids == (1, 2)
        play.say("c", text("done"), FINISHED, attempt=3)
        assert texts(await play.heard()) == "half done"

    run(scenario())


def test_a_return_after_the_beginning_is_a_loss() -> None:
    async def scenario() -> None:
        play = Play("a")
        play.say("a", STARTED, LEAVING)
        assert failures(await play.heard()) == ["the worker is stopping"]

    run(scenario())


UNKNOWN = Usage(input_tokens=None, cached_tokens=None, restored_tokens=None, output_tokens=None, reasoning_tokens=None)


def test_counts_that_an_engine_does_not_know_are_estimated_from_the_texts() -> None:
    async def scenario() -> None:
        play = Play("a")
        play.say("a", QUEUED, Started(usage=UNKNOWN, worker="a"), ReasoningDelta(text="hm, " * 4))
        play.say("a", *(text("words and ") for _ in range(10)))
        play.say("a", text("more"))
        play.say("a", Finished(reason="stop", usage=UNKNOWN))
        events = await play.heard()
        begun = next(event for event in events if isinstance(event, Started)).usage
        usage = assemble(events).usage
        assert begun.input_tokens == usage.input_tokens
        assert usage.input_tokens is not None
        assert usage.input_tokens > 0
        assert (begun.output_tokens, usage.output_tokens, usage.reasoning_tokens) == (0, 30, 4)
        assert (usage.cached_tokens, usage.restored_tokens) == (0, 0)

    run(scenario())


def test_a_worker_that_goes_on_is_told_what_the_first_did_not_know() -> None:
    async def scenario() -> None:
        play = Play("a", "b")
        play.say("a", Started(usage=UNKNOWN, worker="a"), ids=(1,))
        play.say("a", text("half"), ids=(2,))
        play.dispatch.lose(LOST)
        assert play.dispatch.attempt.resume is not None
        assert play.dispatch.attempt.resume.usage == UNKNOWN

    run(scenario())


def test_what_the_lost_attempt_still_says_is_dropped() -> None:
    async def scenario() -> None:
        play = Play("a", "b")
        play.say("a", STARTED)
        play.dispatch.lose(LOST)
        play.say("a", text("late"), FINISHED)
        play.say("b", STARTED_COLD, text("new"), attempt=2)
        play.say("a", Failed.of(LOST))
        play.say("b", FINISHED, attempt=2)
        assert texts(await play.heard()) == "new"

    run(scenario())


def test_once_a_word_was_told_another_worker_goes_on_at_the_next_token() -> None:
    async def scenario() -> None:
        play = Play("a", "b")
        play.say("a", STARTED, ids=(1,))
        play.say("a", text("half "), ids=(2, 3))
        play.dispatch.lose(LOST)
        assert play.ways.sent == [(2, "b")]
        resume = play.dispatch.attempt.resume
        assert resume == Resume(token_ids=(1, 2, 3), usage=STARTED.usage, prompt_digest=STARTED.prompt_digest)
        play.say("a", text("late "), ids=(4,))
        play.say("b", text("an "), attempt=2, ids=(4,))
        assert play.dispatch.attempt.is_started
        play.say("b", text("answer"), attempt=2, ids=(5,))
        play.say("b", FINISHED, attempt=2)
        events = await play.heard()
        assert texts(events) == "half an answer"
        assert assemble(events).usage == FINISHED.usage
        assert play.dispatch.token_ids == (1, 2, 3, 4, 5)

    run(scenario())


def test_an_answer_may_move_twice() -> None:
    async def scenario() -> None:
        play = Play("a", "b", "c")
        for attempt, worker in enumerate("abc", start=1):
            opening = (STARTED,) if worker == "a" else ()
            play.say(worker, *opening, text(worker), attempt=attempt, ids=(attempt,))
            if worker != "c":
                play.say(worker, Failed.of(WorkerLostError("it is stopping", worker=worker)), attempt=attempt)
        assert play.dispatch.attempt.resume is not None
        assert play.dispatch.attempt.resume.token_ids == (1, 2)
        play.say("c", FINISHED, attempt=3)
        assert texts(await play.heard()) == "abc"
        assert play.ways.ended == []  # its worker had ended each

    run(scenario())


def test_a_begun_answer_has_time_to_go_on_though_its_deadline_is_long_past() -> None:
    play = Play("a", "b", deadline_s=time.time() - 500)
    play.say("a", STARTED, text("x"), ids=(1,))
    play.dispatch.lose(LOST)
    assert play.ways.sent == [(2, "b")]
    assert play.dispatch.remaining_s > 10


def test_without_token_ids_a_begun_answer_fails() -> None:
    async def scenario() -> None:
        play = Play("a", "b")
        play.say("a", STARTED, text("half an"))
        play.dispatch.lose(LOST)
        assert play.ways.sent == []
        assert failures(await play.heard()) == [LOST.message]

    run(scenario())


def test_a_request_is_tried_elsewhere_twice_at_most_and_never_on_the_same_worker() -> None:
    async def scenario() -> None:
        play = Play("a", "b", "c", "d")
        for attempt, worker in enumerate("abc", start=1):
            play.say(worker, QUEUED, Failed.of(WorkerLostError(f"{worker} stopped", worker=worker)), attempt=attempt)
        assert play.ways.sent == [(2, "b"), (3, "c")]
        assert play.ways.tried == [frozenset("a"), frozenset("ab"), frozenset("abc")]
        assert failures(await play.heard()) == ["c stopped"]

    run(scenario())


def test_a_worker_that_died_before_its_first_word_is_not_tried_again() -> None:
    """Only RQ's record says who took the job; the fault carries its name."""
    play = Play("a")
    play.dispatch.lose(LOST)
    assert play.ways.tried == [frozenset("a")]
    assert play.dispatch.has_ended


@pytest.mark.parametrize("fault", [InternalError("a bug"), WireError("another secret")])
def test_only_a_fault_of_the_worker_moves_the_request(fault: GatewayError) -> None:
    play = Play("a", "b")
    play.say("a", Failed.of(fault))
    assert bool(play.ways.sent) == isinstance(fault, WireError)


def test_after_its_deadline_a_request_is_not_tried_elsewhere() -> None:
    play = Play("a", "b", deadline_s=time.time() - 1)
    play.dispatch.lose(LOST)
    assert play.ways.sent == []
    assert play.dispatch.has_ended


def test_an_attempt_that_may_still_run_is_ended_before_another_begins() -> None:
    """A hole in what it said cannot be filled, but it goes on."""
    play = Play("a", "b")
    play.dispatch.take(FrameEntry(request_id="r1", attempt=1, seq=1, token_ids=(), events=(STARTED,)), "a", "e")
    assert play.ways.ended == [1]
    assert play.ways.sent == [(2, "b")]


def test_token_ids_are_those_of_the_answer_that_is_told() -> None:
    play = Play("a", "b")
    play.say("a", STARTED, ids=(1, 2))
    assert play.dispatch.has_tokens
    play.dispatch.lose(LOST)
    assert not play.dispatch.has_tokens
    play.say("b", STARTED_COLD, text("x"), attempt=2, ids=(3,))
    play.say("b", attempt=2, ids=(4, 5))
    assert play.dispatch.token_ids == (3, 4, 5)


def test_what_has_ended_is_not_lost_again() -> None:
    async def scenario() -> None:
        play = Play("a", "b")
        play.say("a", STARTED, FINISHED)
        play.dispatch.lose(LOST)
        assert await play.heard() == [STARTED, FINISHED]

    run(scenario())
