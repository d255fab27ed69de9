"""What a request has cost its key, however it ends."""

from __future__ import annotations

import pytest

from gateway.keys.spent import Spent
from gateway.keys.usage import computed_tokens
from gateway.metrics import RequestRecord
from shared.events import (
    Event,
    Failed,
    Finished,
    Progress,
    ReasoningDelta,
    Relayed,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)

STARTED = Started(usage=Usage(input_tokens=100, cached_tokens=60))
SAID: list[Event] = [TextDelta(text="one "), ReasoningDelta(text="two "), ToolCallDelta(index=0, arguments="{}")]


def finished(output_tokens: int | None, input_tokens: int | None = 100) -> Finished:
    usage = Usage(input_tokens=input_tokens, cached_tokens=60, output_tokens=output_tokens)
    return Finished(reason="stop", usage=usage)


def charged(*events: Event, answers: int = 1, prompt_bytes: int = 0) -> int:
    record = RequestRecord(0.0)
    record.spent.answers, record.spent.prompt_bytes = answers, prompt_bytes
    for event in events:
        record.note([event])
    return computed_tokens(record.charged)


def test_an_answer_that_ended_costs_what_its_engine_counted() -> None:
    assert charged(STARTED, *SAID, finished(7)) == 40 + 7
    assert charged(STARTED, *SAID, *SAID, finished(7), finished(8), answers=2) == 40 + 15


@pytest.mark.parametrize("end", [(), (Failed(code="worker_lost", message="gone"),)])
def test_one_that_was_left_or_broke_costs_what_was_said_of_it(end: tuple[Event, ...]) -> None:
    assert charged(STARTED, *SAID, *end) == 40 + 3
    assert charged(STARTED, TextDelta(text="x" * 400), *end) == 40 + 100
    assert charged(STARTED, Relayed(data=b"x" * 4000), Relayed(data=b"y"), *end) == 40 + 2
    assert charged(STARTED, *end) == 40
    assert charged(*end) == 0


def test_of_several_those_that_had_not_ended_cost_what_was_said() -> None:
    assert charged(STARTED, *SAID, *SAID, finished(2), answers=2) == 40 + 6
    assert charged(STARTED, *SAID, finished(9), answers=2) == 40 + 9


def test_a_prompt_that_was_left_before_it_was_computed_costs_what_was() -> None:
    progress = [Progress(phase="prefill", done_tokens=done, total_tokens=9000) for done in (1000, 3000, 5000)]
    assert charged(*progress) == 4000
    assert charged(Progress(phase="queued", done_tokens=9)) == 0
    assert charged(*progress, STARTED) == 40


def test_where_an_engine_does_not_count_it_is_about_what_passed() -> None:
    assert charged(Started(usage=Usage(input_tokens=None)), *SAID, finished(None, None), prompt_bytes=400) == 40 + 3
    usage = Spent().usage(Usage(input_tokens=None, cached_tokens=None, output_tokens=None), ended=1)
    assert computed_tokens(usage) == 0
