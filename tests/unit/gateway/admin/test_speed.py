"""Speed tests: what they ask, what that costs, what is drawn of it, and how they end. Answers are played; real ones are
in tests/integration/test_console_api.py."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.admin.speed import Speed, SpeedTests
from gateway.admin.speed_plan import ANSWER_TOKENS, Step, Timed, cost, plan, point, prompt
from gateway.http.timed import TimedAnswer
from gateway.keys.holder import OWNER, Holder
from shared.errors import InvalidRequestError, ModelUnavailableError, OverloadedError, RouteNotFoundError
from shared.registry import Fleet
from tests.support.fleet import lease
from tests.support.gateway import until


def sizes(kind: str, context_tokens: int, capacity: int) -> list[int]:
    return [each.size for each in plan(context_tokens, capacity) if each.kind == kind]


def test_no_prompt_takes_more_than_half_of_the_window_and_no_more_answers_run_than_workers_take() -> None:
    assert sizes("prefill", 32_768, 16) == sizes("prefill", 0, 16) == [256, 1024, 4096, 8192]
    assert sizes("prefill", 4096, 16) == [256, 1024]
    assert sizes("prefill", 300, 16) == []
    assert [sizes("decode", 0, capacity) for capacity in (0, 1, 2, 3, 64)] == [[1], [1], [1, 2], [1, 2], [1, 2, 4]]


def test_what_a_test_costs_is_the_most_that_its_requests_may_take() -> None:
    told = cost([Step("prefill", 1000), Step("decode", 2)], 500.0, 20.0)
    assert (told.requests, told.prompt_tokens, told.answer_tokens) == (3, 1064, 1 + 2 * ANSWER_TOKENS)
    assert told.seconds == pytest.approx(1064 / 500 + 129 / 20)
    assert cost([Step("prefill", 1000)], 0.0, 20.0).seconds == 0, "not known before it has answered anything"


def test_prompts_are_as_long_as_they_should_be_and_begin_differently() -> None:
    chance = random.Random(7)
    prompts = [prompt(256, chance) for _ in range(50)]
    assert {len(each.split()) for each in prompts} == {256}
    assert len({each[:60] for each in prompts}) == 50


def timed(first_s: float | None, last_s: float | None, prompt_tokens: int = 500, answer_tokens: int = 65) -> Timed:
    return Timed(first_s=first_s, last_s=last_s, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)


def test_a_point_is_drawn_at_what_was_really_read_and_said() -> None:
    read = point(Step("prefill", 512), [timed(0.5, 0.5)], is_beside=False)
    assert read is not None
    assert (read.at, read.first_s, read.tokens_per_s) == (500, 0.5, 1000.0)
    said = point(Step("decode", 2), [timed(1.0, 3.0), timed(1.5, 5.0)], is_beside=True)
    assert said is not None
    assert (said.at, said.tokens_per_s, said.is_beside) == (2, 128 / 4.0, True)


@pytest.mark.parametrize(
    ("step", "answers"),
    [
        (Step("prefill", 512), [timed(None, None)]),
        (Step("prefill", 512), [timed(0.5, 0.5, prompt_tokens=0)]),
        (Step("decode", 1), [timed(0.5, 0.5)]),
        (Step("decode", 1), [timed(0.5, 1.5, answer_tokens=1)]),
        (Step("decode", 2), [timed(0.5, 1.5), timed(None, None)]),
    ],
)
def test_where_too_little_was_said_there_is_no_point(step: Step, answers: list[Timed]) -> None:
    assert point(step, answers, is_beside=False) is None
    after = Speed(began_s=0.0, steps=2).with_step(step, None)
    assert (after.done, after.missing, after.prefill, after.decode) == (1, 1, (), ())


class Played:
    """Answers; `holds` is the one that does not end, `error` what all end with."""

    def __init__(self, holds: int = -1, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.left = 0
        self.holds = holds
        self.error = error

    async def __call__(self, holder: Holder, model: str, words: str, most_tokens: int) -> Timed:
        self.asked.append((holder.name, model, most_tokens))
        if self.error is not None:
            raise self.error
        if len(self.asked) > self.holds >= 0:
            try:
                await asyncio.Event().wait()
            finally:
                self.left += 1
        return timed(0.1, 0.2 if most_tokens > 1 else 0.1, len(words.split()), most_tokens)


def play(ask: Played, scenario: Callable[[SpeedTests], Awaitable[None]], others: int = 0) -> None:
    fleet = Fleet(workers=(lease("m", capacity=2, context_tokens=4096), lease("voice", kinds=("speak",))))

    async def main() -> None:
        tests = SpeedTests(lambda: fleet, ask, lambda: others)
        try:
            await scenario(tests)
        finally:
            await tests.aclose()

    asyncio.run(main())


async def told(tests: SpeedTests, model: str = "m") -> dict[str, Any]:
    found: dict[str, Any] = (await tests.render())["tests"][model]
    return found


async def ended(tests: SpeedTests) -> dict[str, Any]:
    await until(lambda: not tests._tasks, "it has ended")
    return await told(tests)


@pytest.mark.parametrize("others", [0, 3])
def test_each_step_is_shown_as_it_ends_and_whether_others_asked_meanwhile(others: int) -> None:
    ask = Played()

    async def scenario(tests: SpeedTests) -> None:
        before = tests.stamp()
        cost = tests.start("m", Holder(name="anna"))
        found = await ended(tests)
        assert (found["state"], found["done"], found["steps"]) == ("done", 4, 4)
        assert [each["at"] for each in found["prefill"]] == [256, 1024]
        assert [each["at"] for each in found["decode"]] == [1, 2]
        assert {each["is_beside"] for each in found["prefill"]} == {others > 0}
        assert cost["requests"] == len(ask.asked) == 5
        assert {name for name, *_ in ask.asked} == {"anna"}, "what it takes is counted to whoever began it"
        assert tests.stamp() != before

    play(ask, scenario, others)


def test_one_is_cancelled_with_all_that_it_asks_and_keeps_what_it_found() -> None:
    ask = Played(holds=3)

    async def scenario(tests: SpeedTests) -> None:
        tests.start("m", OWNER)
        with pytest.raises(InvalidRequestError, match="m is tested now"):
            tests.start("m", OWNER)
        await until(lambda: len(ask.asked) == 5, "two answers hang")
        assert (await told(tests))["state"] == "running"
        tests.cancel("m")
        found = await ended(tests)
        assert (found["state"], found["done"], len(found["decode"]), ask.left) == ("cancelled", 3, 1, 2)
        with pytest.raises(RouteNotFoundError):
            tests.cancel("m")

    play(ask, scenario)


def test_one_that_is_cancelled_before_it_began_is_no_more() -> None:
    async def scenario(tests: SpeedTests) -> None:
        tests.start("m", OWNER)
        tests.cancel("m")
        assert (await ended(tests))["state"] == "cancelled"

    play(Played(), scenario)


@pytest.mark.parametrize(
    ("error", "reason"), [(OverloadedError("the queue is full"), "the queue is full"), (KeyError("a bug"), "internal")]
)
def test_one_that_fails_says_why(error: Exception, reason: str) -> None:
    async def scenario(tests: SpeedTests) -> None:
        tests.start("m", OWNER)
        found = await ended(tests)
        assert (found["state"], found["done"]) == ("failed", 0)
        assert reason in found["reason"]
        tests.start("m", OWNER)

    play(Played(error=error), scenario)


@pytest.mark.parametrize("model", ["nothing", "voice", ""])
def test_what_nobody_answers_is_not_tested(model: str) -> None:
    async def scenario(tests: SpeedTests) -> None:
        for act in (tests.check, lambda name: tests.start(name, OWNER)):
            with pytest.raises(InvalidRequestError, match="load it first"):
                act(model)
        assert await tests.render() == {"tests": {}}

    play(Played(), scenario)


def test_times_are_those_of_the_first_and_the_last_piece_that_says_something() -> None:
    async def main() -> TimedAnswer:
        answer = TimedAnswer(b"{}")
        await answer.send({"type": "http.response.start", "status": 200})
        for data in (
            b': keep-alive\n\ndata: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
            b'data: {"choices": [{"delta": {"reasoning_cont',
        ):
            await answer.send({"type": "http.response.body", "body": data})
        assert answer.first_s is None
        await answer.send({"type": "http.response.body", "body": b'ent": "so"}}]}\n\n'})
        first_s = answer.first_s
        await answer.send(
            {"type": "http.response.body", "body": b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'}
        )
        await answer.send({"type": "http.response.body", "body": b'data: {"choices": [], "usage": {"x": 1}}\n\n'})
        await answer.send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        assert first_s is not None
        assert answer.first_s == first_s <= (answer.last_s or 0.0)
        assert answer.usage == {"x": 1}
        return answer

    answer = asyncio.run(main())
    with pytest.raises(ModelUnavailableError, match="it broke"):
        asyncio.run(answer.send({"body": b'data: {"error": {"message": "it broke"}}\n\n'}))
