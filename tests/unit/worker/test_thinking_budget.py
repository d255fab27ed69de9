"""Reasoning that has used up its budget is closed, and the answer goes on: in every family, whatever form it must have,
and to the same tokens however they came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from shared.events import Completion, ReasoningDelta, TextDelta
from shared.messages import ReasoningPart, TextPart
from shared.request import GenerateRequest, ReasoningOptions
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import AGENT_FULL
from tests.unit.worker.test_mlx_harmony import folder  # noqa: F401 - a fixture
from tests.unit.worker.test_mlx_resume import GREEDY, SCHEMA, SEEDED, SHELL, joined, resume_of, told
from tests.unit.worker.test_reasoning_families import ALIKE, control_of, template_of, thought, wrapped
from worker.engines.mlx.decode.thinking import Closing, ThinkingBudget
from worker.engines.mlx.model.models import load
from worker.engines.tokens.output import OutputStream, output_format
from worker.formats.harmony import ANALYSIS, MESSAGE
from worker.formats.reasoning import REASONING_FAMILIES, Reasoning
from worker.prompt import PromptBuilder

BUDGET = 12
MUSING = " ".join(f"and then {number}," for number in range(60))


def budgeted(tokens: int = BUDGET, **more: Any) -> ReasoningOptions:
    return ReasoningOptions(enabled=True, budget_tokens=tokens, **more)


# --- what is forced, and when -----------------------------------------------------------------------------------------

OPEN, CLOSE = 1, 2
CLOSING = Closing(((7,), (8, 9), (CLOSE,)), barred=(OPEN,))


class Marks:
    """Reasoning stands between two tokens."""

    def __init__(self, *, is_reasoning: bool) -> None:
        self.is_reasoning = is_reasoning

    def feed(self, token: int) -> None:
        self.is_reasoning = {OPEN: True, CLOSE: False}.get(token, self.is_reasoning)


class Line:
    """An answer that wants to say `wish`, one token a step, as the device says them: one ahead of the host."""

    def __init__(self, wish: list[int], budget: int, *, is_reasoning: bool = True) -> None:
        self.wish = wish
        self.said: list[int] = []
        self.budget = ThinkingBudget(Marks(is_reasoning=is_reasoning), self.said, budget, CLOSING)

    def next(self, at: int) -> int:
        return self.budget.demanded[0] if self.budget.demanded else self.wish[at]

    def run(self, *, runs: int = 0) -> list[int]:
        """Several tokens at once, as drafts are taken, as long as that is allowed and `runs` is not 0."""
        pending: int | None = None
        for at in range(len(self.wish)):
            if pending is not None:
                if runs and self.budget.may_draft and at % runs:
                    self.said.append(pending)
                    self.budget.pass_over(1)
                else:
                    self.budget.count(mx.array(pending))
                    self.said.append(pending)
            pending = self.next(at)
        return self.said


@pytest.mark.parametrize("budget", [0, 1, 3, 4, 9, 40, 63])
def test_the_budget_holds_with_its_closing_and_the_answer_goes_on(budget: int) -> None:
    said = Line([100 + n for n in range(90)], budget).run()
    at = max(budget, len(CLOSING.steps)) - len(CLOSING.steps)
    assert said == [*(100 + n for n in range(at)), 7, 8, CLOSE, *(100 + n for n in range(at + 3, 89))]


@pytest.mark.parametrize("runs", [2, 5, 16])
@pytest.mark.parametrize("wish", [[100] * 90, [5, OPEN, *[100] * 88], [100] * 20 + [CLOSE] + [101] * 20 + [OPEN] * 49])
def test_drafts_change_nothing(wish: list[int], runs: int) -> None:
    for budget in (3, 33, 40, 62):
        starts = wish[0] == 100
        whole = Line(wish, budget, is_reasoning=starts).run()
        assert Line(wish, budget, is_reasoning=starts).run(runs=runs) == whole


def test_nothing_is_forced_where_reasoning_ends_by_itself() -> None:
    wish = [*[100] * 8, CLOSE, *[101] * 60]
    line = Line(wish, 13)
    assert line.run() == wish[:-1]
    assert line.budget.barred == ()


def test_what_comes_after_an_earlier_attempt_is_the_same() -> None:
    wish = [100 + n for n in range(30)]
    whole = Line(wish, 9).run()
    for cut in range(len(whole)):
        line = Line(wish, 9)
        line.said += whole[:cut]
        line.budget.replay(whole[:cut])
        for at in range(cut, len(whole)):
            token = line.next(at)
            assert token == whole[at]
            line.budget.count(mx.array(token))
            line.said.append(token)


def test_once_it_is_closed_reasoning_is_not_opened_again() -> None:
    line = Line([100 + n for n in range(30)], 5)
    line.run()
    assert line.budget.barred == (OPEN,)


# --- through the engine -----------------------------------------------------------------------------------------------


def reasoning_of(completion: Completion) -> str:
    return "".join(part.text for part in completion.parts if isinstance(part, ReasoningPart))


def text_of(completion: Completion) -> str:
    return "".join(part.text for part in completion.parts if isinstance(part, TextPart))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=name, marks=pytest.mark.slow if name in ALIKE else ())
        for name, family in REASONING_FAMILIES.items()
    ],
)
def test_every_familys_reasoning_is_closed_in_its_own_words(family: Reasoning, tmp_path: Path) -> None:
    texts = {"text": thought(family, MUSING) + wrapped(family, "It is 4."), "": wrapped(family, "It is 4.")}
    control = control_of(family)  # one token of several would lead back to where the text has it first
    control = control if family.end in control else []
    driver = Driver(build_scripted(tmp_path / "m", texts, template_of(family, cue("text")), control=control))
    (whole,) = driver.run(request("whole", [message("user", "go")], max_tokens=500))
    asked = request("cut", [message("user", "go")], max_tokens=500, reasoning=budgeted(60))
    assert not any("budget" in warning for warning in driver.engine.prepare(asked).warnings)
    (said,) = driver.run(asked)
    assert text_of(said) == text_of(whole) == "It is 4."
    assert 0 < len(reasoning_of(said)) < len(reasoning_of(whole))
    assert reasoning_of(whole).startswith(reasoning_of(said))
    assert said.usage.reasoning_tokens <= 60 < whole.usage.reasoning_tokens
    assert said.reason == "stop"


def test_in_harmony_it_is_closed_and_the_model_chooses_whether_to_call_or_to_speak(
    folder: Path,  # noqa: F811
) -> None:
    tokenizer = load(folder, max_context_tokens=0, report=lambda done: None).tokenizer
    closing = output_format(tokenizer).closing
    assert closing is not None
    channels = [tokenizer.decode([token]) for token in closing.steps[-1]]
    assert [name[:1] for name in channels] == ["c", "f"]
    asked = request("r", [message("user", "go")], tools=(SHELL,), reasoning=budgeted())
    prompt = PromptBuilder(tokenizer, context_tokens=4096).build(asked)

    def spelled(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    said: list[int] = []
    budget = ThinkingBudget(OutputStream(tokenizer, asked, prompt, lambda: "id"), said, 20, closing)
    wish = spelled(f"{ANALYSIS}{MUSING}")
    while not budget.barred and len(said) < 100 and not (said and said[-1] == closing.steps[-1][1]):
        token = budget.demanded[-1] if budget.demanded else wish[len(said)]
        budget.count(mx.array(token))
        said.append(token)
    answer = OutputStream(tokenizer, asked, prompt, lambda: "id")
    final = [*said, *spelled("inal"[len(channels[1]) - 1 :]), *spelled(f"{MESSAGE}It is 4.")]
    events = [event for token in final for event in answer.feed(token)]
    events += answer.finish("stop")[0]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It is 4."
    assert 0 < len("".join(event.text for event in events if isinstance(event, ReasoningDelta))) < len(MUSING)
    assert budget.demanded == ()


def asked_of(key: str, options: ReasoningOptions, **more: Any) -> GenerateRequest:
    more.setdefault("sampling", SEEDED)
    return request(key, [message("system", "You help."), message("user", "What is 2 + 2?")], reasoning=options, **more)


@pytest.fixture(scope="module")
def first() -> Driver:
    return Driver(AGENT_FULL)


CASES: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": replace(GREEDY, max_tokens=28)},
    "seeded": {},
    "penalties": {"sampling": replace(SEEDED, repetition_penalty=1.2, frequency_penalty=0.5)},
    "schema": {"response_schema": SCHEMA},
    "tools": {"tools": (SHELL,)},
}


@pytest.mark.parametrize("name", CASES)
def test_cut_at_any_token_the_budget_goes_on_where_it_was(first: Driver, name: str) -> None:
    asked = asked_of(name, budgeted(6), **CASES[name])
    (said,) = first.run(asked)
    assert 0 < said.usage.reasoning_tokens <= 6
    whole, ids = told(first, asked.id), first.tokens[asked.id]
    assert any(isinstance(event, ReasoningDelta) for event in whole)
    before = {}
    for cut in range(len(ids) + 1):
        prepared = first.engine.prepare(asked, resume_of(first, asked.id, cut))
        before[cut] = prepared.past
        first.submit_prepared(replace(prepared, key=f"{name}-{cut}"))
    first.step_until(lambda: not first.engine.has_work())
    for cut, past in before.items():
        assert ids[:cut] + first.tokens[f"{name}-{cut}"] == ids, f"cut at {cut}"
        assert joined([*past, *first.events[f"{name}-{cut}"]]) == joined(whole), f"cut at {cut}"


def test_with_drafts_and_beside_others_it_is_the_same_answer(first: Driver) -> None:
    asked = asked_of("alone", budgeted(9))
    first.run(asked)
    others = [replace(asked, id=f"other{number}") for number in range(3)]
    first.run(*others)
    drafting = Driver(AGENT_FULL, options={"drafting": "always"})
    drafting.run(asked)
    assert {tuple(first.tokens[other.id]) for other in others} == {tuple(first.tokens["alone"])}
    assert drafting.tokens["alone"] == first.tokens["alone"]


def test_an_answer_that_is_interrupted_while_it_is_closed_goes_on(first: Driver) -> None:
    asked = asked_of("whole", budgeted(6))
    first.run(asked)
    for cut in range(1, 9):
        key = f"paused{cut}"
        first.submit(replace(asked, id=key))
        first.step_until(lambda key=key, cut=cut: len(first.tokens[key]) >= cut)  # type: ignore[misc]
        first.engine.pause(key)
        first.step_until(lambda: not first.engine.has_work())
        assert first.tokens[key] == first.tokens["whole"], cut


def test_max_tokens_ends_an_answer_before_its_budget_does(first: Driver) -> None:
    (said,) = first.run(asked_of("short", budgeted(500), sampling=replace(SEEDED, max_tokens=3)))
    assert (said.reason, said.usage.output_tokens) == ("length", 3)


def test_where_a_model_never_reasons_a_budget_changes_nothing(first: Driver) -> None:
    options = ReasoningOptions(enabled=False, budget_tokens=2)
    (plain,) = first.run(asked_of("off", ReasoningOptions(enabled=False)))
    (said,) = first.run(asked_of("off too", options))
    assert said.parts == plain.parts
