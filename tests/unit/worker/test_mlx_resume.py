"""An answer that another engine has begun goes on as if nothing had been: at every token, however it is sampled,
whatever form it must have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.errors import WorkerLostError
from shared.events import (
    Event,
    Failed,
    Finished,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from shared.messages import TextPart
from shared.request import GenerateRequest, ReasoningOptions, Resume, SamplingParams, ToolChoice, ToolDefinition
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import AGENT_FULL, CheckpointMaker

SHELL = ToolDefinition(
    name="Bash",
    description="Run a command",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
    "required": ["a", "b"],
}
TOKENS = 28
SEEDED = SamplingParams(max_tokens=TOKENS, temperature=0.9, seed=7)
GREEDY = SamplingParams(max_tokens=60, temperature=0.0)
PENALISED = replace(
    SEEDED, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.5, presence_penalty=0.3, logit_bias={5: -2.0}
)


def ask(text: str = "List the files here.", **more: Any) -> GenerateRequest:
    more.setdefault("sampling", SEEDED)
    return request("r", [message("system", "You help."), message("user", text)], **more)


# For the trained model, which hardly ever doubts what to say.
CASES: dict[str, tuple[GenerateRequest, type]] = {
    "greedy": (ask(sampling=replace(GREEDY, max_tokens=TOKENS)), TextDelta),
    "seeded": (ask("Tell me something."), TextDelta),
    "penalties": (ask("Tell me something.", sampling=PENALISED), TextDelta),
    "stop sequence": (ask("Tell me something.", sampling=replace(SEEDED, stop=("qzx", "ing to"))), TextDelta),
    "schema": (ask(response_schema=SCHEMA), TextDelta),
    "schema with penalties": (ask(response_schema=SCHEMA, sampling=PENALISED), TextDelta),
    "call": (ask(tools=(SHELL,), sampling=GREEDY), ToolCallStarted),
    "forced call": (ask(tools=(SHELL,), tool_choice=ToolChoice(mode="tool", name="Bash")), ToolCallDelta),
    "reasoning": (ask("What is 2 + 2?", reasoning=ReasoningOptions(enabled=True), sampling=SEEDED), ReasoningDelta),
}

# For one of random weights, where each token hangs on its random number and on what the penalties have counted.
DOUBTS: dict[str, SamplingParams] = {
    "plain": SEEDED,
    "top p": replace(SEEDED, top_p=0.8),
    "top k": replace(SEEDED, top_k=40, min_p=0.01),
    "penalties": replace(PENALISED, temperature=1.0),
    "greedy with penalties": replace(PENALISED, temperature=0.0, frequency_penalty=1.5),
}


@pytest.fixture(scope="module")
def first() -> Driver:
    return Driver(AGENT_FULL)


@pytest.fixture(scope="module")
def second() -> Driver:
    """Another engine, which has computed nothing of it."""
    return Driver(AGENT_FULL)


@pytest.fixture(scope="module")
def random_pair(random_checkpoint: CheckpointMaker) -> tuple[Driver, Driver]:
    folder = random_checkpoint("full")
    return Driver(folder), Driver(folder)


def told(driver: Driver, key: str) -> list[Event]:
    """What was said of the answer itself."""
    return [event for event in driver.events[key] if not isinstance(event, Progress)]


def resume_of(driver: Driver, key: str, count: int) -> Resume:
    """What a gateway knows after `count` tokens."""
    started = next(event for event in driver.events[key] if isinstance(event, Started))
    return Resume(token_ids=tuple(driver.tokens[key][:count]), usage=started.usage)


def whole_of(driver: Driver, asked: GenerateRequest) -> list[Event]:
    driver.run(asked)
    return told(driver, asked.id)


def joined(events: list[Event]) -> list[Event]:
    """With neighbouring texts in one: the last words of an answer come with its end, or before it, as it was cut."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            out[-1] = TextDelta(text=last.text + event.text, logprobs=last.logprobs + event.logprobs)
        else:
            out.append(event)
    return out


@pytest.mark.parametrize("name", CASES)
def test_cut_at_any_token_the_answer_is_the_one_it_would_have_been(first: Driver, second: Driver, name: str) -> None:
    asked, kind = CASES[name]
    assert any(isinstance(event, kind) for event in whole_of(first, asked))
    check_every_cut(first, second, asked, name)


@pytest.mark.parametrize("name", DOUBTS)
def test_random_numbers_and_penalties_go_on_where_they_were(random_pair: tuple[Driver, Driver], name: str) -> None:
    first, second = random_pair
    asked = ask("Tell me something.", sampling=DOUBTS[name])
    whole_of(first, asked)
    assert len(set(first.tokens[asked.id])) > 5
    check_every_cut(first, second, asked, name)


def check_every_cut(first: Driver, second: Driver, asked: GenerateRequest, name: str) -> None:
    whole, ids = told(first, asked.id), first.tokens[asked.id]
    assert len(ids) >= 8
    past: dict[int, tuple[Event, ...]] = {}
    for cut in range(len(ids) + 1):
        prepared = second.engine.prepare(asked, resume_of(first, asked.id, cut))
        past[cut] = prepared.past
        second.submit_prepared(replace(prepared, key=f"{name}-{cut}"))
    second.step_until(lambda: not second.engine.has_work())
    second.check()
    for cut, before in past.items():
        after = second.events[f"{name}-{cut}"]
        assert not any(isinstance(event, Started | Progress) for event in after)
        assert ids[:cut] + second.tokens[f"{name}-{cut}"] == ids, f"cut at {cut}"
        assert joined([*before, *after]) == joined(whole), f"cut at {cut}"


def test_what_is_resumed_alone_is_the_same_too(first: Driver, second: Driver) -> None:
    """Alone it is drafted for."""
    asked = replace(CASES["seeded"][0], id="alone")
    whole = whole_of(first, asked)
    prepared = second.engine.prepare(asked, resume_of(first, "alone", 11))
    second.submit_prepared(prepared)
    second.step_until(lambda: not second.engine.has_work())
    assert joined([*prepared.past, *second.events["alone"]]) == joined(whole)


def test_resumed_twice_it_is_the_same_still(first: Driver, second: Driver) -> None:
    asked = replace(CASES["penalties"][0], id="twice")
    whole = whole_of(first, asked)
    ids = first.tokens["twice"]
    second.submit_prepared(second.engine.prepare(asked, resume_of(first, "twice", 5)))
    second.step_until(lambda: len(second.tokens["twice"]) >= 8)
    second.engine.cancel("twice")
    both = ids[:5] + second.tokens["twice"]
    assert both == ids[: len(both)]
    third = second.engine.prepare(asked, replace(resume_of(first, "twice", 0), token_ids=tuple(both)))
    second.submit_prepared(third)
    second.step_until(lambda: not second.engine.has_work())
    assert joined([*third.past, *second.events["twice"]]) == joined(whole)


def test_a_resumed_answer_survives_an_interruption_and_a_pause(first: Driver, second: Driver) -> None:
    asked = replace(CASES["schema with penalties"][0], id="tried")
    whole = whole_of(first, asked)
    prepared = second.engine.prepare(asked, resume_of(first, "tried", 4))
    second.submit_prepared(prepared)
    second.step_until(lambda: len(second.tokens["tried"]) >= 3)
    second.engine._interrupt(second.engine._sequences["tried"])
    second.step_until(lambda: len(second.tokens["tried"]) >= 6)
    second.engine.pause("tried")
    second.step_until(lambda: not second.engine.has_work())
    assert joined([*prepared.past, *second.events["tried"]]) == joined(whole)


def test_the_usage_is_that_of_the_whole_answer(first: Driver, second: Driver) -> None:
    """Input and cached tokens as the first attempt found them, every generated token once."""
    asked = replace(CASES["greedy"][0], id="used")
    first.run(replace(asked, id="warm"))
    whole = whole_of(first, asked)
    assert isinstance(whole[-1], Finished)
    assert whole[-1].usage.cached_tokens > 0
    second.submit_prepared(second.engine.prepare(asked, resume_of(first, "used", 6)))
    second.step_until(lambda: not second.engine.has_work())
    assert second.events["used"][-1] == whole[-1]


def test_calls_have_the_same_ids_on_any_worker_and_others_in_any_other_answer(first: Driver, second: Driver) -> None:
    asked = CASES["call"][0]

    def ids(driver: Driver, name: str) -> list[str]:
        driver.run(replace(asked, id=name))
        return [event.id for event in driver.events[name] if isinstance(event, ToolCallStarted)]

    assert ids(first, "same") == ids(second, "same") != []
    assert ids(first, "another") != ids(first, "same")


def test_tokens_that_the_demanded_form_forbids_end_the_request_alone(first: Driver) -> None:
    asked = replace(CASES["schema"][0], id="wrong")
    other = replace(CASES["seeded"][0], id="right")
    first.submit(other)
    first.submit_prepared(first.engine.prepare(asked, Resume(token_ids=(9, 9, 9))))
    first.step_until(lambda: not first.engine.has_work())
    (failed,) = first.events["wrong"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error(), WorkerLostError)
    assert isinstance(first.events["right"][-1], Finished)
    first.check()


def test_logprobs_go_on_unless_some_were_held_back(first: Driver, second: Driver) -> None:
    (answer,) = first.run(replace(CASES["seeded"][0], id="said"))
    (said_first,) = (part.text for part in answer.parts if isinstance(part, TextPart))
    stop = said_first[10:20] + "@@@@"  # which may come until it does not, so that its beginning is held back
    sampling = replace(SEEDED, top_logprobs=2, stop=(stop,))
    asked = replace(ask("Tell me something.", sampling=sampling), id="logprobs")
    whole = [logprob.token for event in whole_of(first, asked) for logprob in logprobs_of(event)]
    resumed = refused = 0
    for cut in range(1, len(first.tokens["logprobs"])):
        try:
            prepared = second.engine.prepare(asked, resume_of(first, "logprobs", cut))
        except WorkerLostError:
            refused += 1
            continue
        second.submit_prepared(replace(prepared, key=f"logprobs-{cut}"))
        second.step_until(lambda: not second.engine.has_work())
        resumed += 1
        said = [logprob.token for event in prepared.past for logprob in logprobs_of(event)]
        rest = [logprob.token for event in second.events[f"logprobs-{cut}"] for logprob in logprobs_of(event)]
        assert len(said) + len(rest) == len(whole)
        assert rest == whole[len(said) :]
    assert resumed > 5
    assert refused > 0


def logprobs_of(event: Event) -> tuple[Any, ...]:
    return event.logprobs if isinstance(event, TextDelta) else ()


def test_another_prompt_is_said_in_the_log_and_served(first: Driver, caplog: pytest.LogCaptureFixture) -> None:
    asked = replace(CASES["greedy"][0], id="prompted")
    first.run(asked)
    known = resume_of(first, "prompted", 3)
    digest = first.engine.prepare(asked).prompt_digest
    first.engine.prepare(asked, replace(known, prompt_digest=digest))
    assert "another prompt" not in caplog.text
    first.engine.prepare(asked, replace(known, prompt_digest="0" * 16))
    assert "another prompt" in caplog.text
