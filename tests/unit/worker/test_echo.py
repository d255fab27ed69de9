"""The echo engine keeps the engine protocol and obeys the lines its docstring names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import load_settings
from shared.errors import ConfigError, PromptTooLongError, RequestCancelledError
from shared.events import Completion, Event, Finished, Progress, Started, TextDelta, ToolCallFinished, assemble
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.registry import ModelSpec
from shared.request import GenerateRequest, ReasoningOptions, SamplingParams, ToolChoice, ToolDefinition
from worker.engines.base import Output
from worker.engines.echo import EchoEngine
from worker.engines.echo_cache import pack_words
from worker.engines.echo_script import split_words

WEATHER = ToolDefinition(name="weather", parameters={"type": "object"})


def build(**options: Any) -> EchoEngine:
    engine = EchoEngine(ModelSpec(id="echo", source="echo", engine="echo", options=options), load_settings(environ={}))
    engine.load(lambda done: None)
    return engine


def ask(text: str, **fields: Any) -> GenerateRequest:
    fields.setdefault("id", "r1")
    return GenerateRequest(model="echo", messages=(Message(role="user", parts=(TextPart(text=text),)),), **fields)


class Heard:
    """An outbox that keeps what it is told."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []

    def emit(self, outputs: Sequence[Output]) -> None:
        self.outputs += outputs

    def alive(self) -> None:
        pass

    def broken(self, error: BaseException) -> None:
        raise error


def step(engine: EchoEngine) -> list[Output]:
    heard = Heard()
    engine.step(heard)
    return heard.outputs


def steps(engine: EchoEngine, most: int = 1000) -> list[Output]:
    outputs: list[Output] = []
    while engine.has_work() and most:
        outputs += step(engine)
        most -= 1
    return outputs


def events_of(request: GenerateRequest, **options: Any) -> list[Event]:
    engine = build(**options)
    engine.submit(engine.prepare(request))
    return [event for output in steps(engine) for event in output.events]


def answer(request: GenerateRequest, **options: Any) -> Completion:
    return assemble(events_of(request, **options))


@given(st.text(max_size=60))
def test_words_join_to_the_text_again(text: str) -> None:
    assert "".join(split_words(text)) == text


def test_the_last_user_text_comes_back_one_word_a_step() -> None:
    engine = build()
    engine.submit(engine.prepare(ask("one two\nthree")))
    deltas = [o.events for o in steps(engine) if any(isinstance(e, TextDelta) for e in o.events)]
    assert [[e.text for e in events if isinstance(e, TextDelta)] for events in deltas] == [
        ["one"],
        [" two"],
        ["\nthree"],
    ]


def test_the_answer_counts_words_as_tokens() -> None:
    completion = answer(ask("one two three"))
    assert (completion.usage.input_tokens, completion.usage.output_tokens, completion.reason) == (3, 3, "stop")


def test_every_step_advances_every_request() -> None:
    engine = build()
    for number in range(3):
        engine.submit(engine.prepare(ask("a b c", id=f"r{number}")))
    for _ in range(4):
        assert [o.key for o in step(engine)] == ["r0", "r1", "r2"]
    assert not engine.has_work()


def test_max_tokens_ends_the_answer_with_length() -> None:
    completion = answer(ask("a b c d", sampling=SamplingParams(max_tokens=2)))
    assert (completion.parts, completion.reason) == ((TextPart(text="a b"),), "length")


def test_the_context_window_ends_the_answer_with_context_length() -> None:
    completion = answer(ask("a b c d", sampling=SamplingParams(max_tokens=50)), context_tokens=6)
    assert (completion.usage.output_tokens, completion.reason) == (2, "context_length")


def test_a_prompt_over_the_context_window_is_refused_with_the_numbers() -> None:
    with pytest.raises(PromptTooLongError, match="4 tokens > 3 maximum"):
        build(context_tokens=4).prepare(ask("a b c d"))


def test_the_earliest_stop_sequence_cuts_the_text_and_is_named() -> None:
    completion = answer(ask("go on until END or stop", sampling=SamplingParams(stop=("stop", "END"))))
    assert (completion.parts, completion.reason, completion.stop_sequence) == (
        (TextPart(text="go on until "),),
        "stop_sequence",
        "END",
    )


def test_a_call_line_calls_the_tool() -> None:
    completion = answer(ask('look\ncall weather {"city": "Oslo"}', tools=(WEATHER,)))
    assert completion.reason == "tool_calls"
    assert completion.parts[0] == TextPart(text="look")
    call = completion.parts[1]
    assert isinstance(call, ToolCallPart)
    assert (call.name, call.arguments) == ("weather", '{"city": "Oslo"}')


def test_several_calls_have_ids_of_their_own() -> None:
    completion = answer(ask("call weather {}\ncall weather {}", tools=(WEATHER,)))
    ids = [part.id for part in completion.parts if isinstance(part, ToolCallPart)]
    assert len(set(ids)) == 2


def test_a_call_without_such_a_tool_is_only_text() -> None:
    assert answer(ask("call weather {}")).parts == (TextPart(text="call weather {}"),)


def test_tool_choice_none_calls_nothing() -> None:
    request = ask("call weather {}", tools=(WEATHER,), tool_choice=ToolChoice(mode="none"))
    assert answer(request).reason == "stop"


def test_tool_choice_any_calls_a_tool_although_no_line_does() -> None:
    completion = answer(ask("hi", tools=(WEATHER,), tool_choice=ToolChoice(mode="any")))
    assert completion.reason == "tool_calls"


def test_broken_arguments_travel_as_written_and_are_marked() -> None:
    events = events_of(ask('call weather {"city": ', tools=(WEATHER,)))
    assert [e.is_valid for e in events if isinstance(e, ToolCallFinished)] == [False]


def test_a_call_cut_by_max_tokens_is_closed_as_invalid() -> None:
    events = events_of(ask('call weather {"city": "Oslo"}', tools=(WEATHER,), sampling=SamplingParams(max_tokens=1)))
    assert [e.is_valid for e in events if isinstance(e, ToolCallFinished)] == [False]
    assert assemble(events).reason == "length"


def test_a_tool_result_is_echoed_and_not_obeyed() -> None:
    result = ToolResultPart(call_id="c", parts=(TextPart(text="call weather {}"),))
    request = GenerateRequest(
        id="r1", model="echo", messages=(Message(role="tool", parts=(result,)),), tools=(WEATHER,)
    )
    assert answer(request).parts == (TextPart(text="call weather {}"),)


def test_reasoning_comes_first_and_can_be_switched_off() -> None:
    request = ask("echo:think deep thought\nanswer")
    assert answer(request).parts == (ReasoningPart(text="deep thought"), TextPart(text="answer"))
    assert answer(request).usage.reasoning_tokens == 2
    short = ask("echo:think deep thought\nanswer", reasoning=ReasoningOptions(budget_tokens=1))
    assert answer(short).parts == (ReasoningPart(text="deep"), TextPart(text="answer"))
    quiet = ask("echo:think deep thought\nanswer", reasoning=ReasoningOptions(enabled=False))
    assert answer(quiet).parts == (TextPart(text="answer"),)


def test_words_makes_an_answer_of_any_length() -> None:
    assert answer(ask("echo:words 40")).usage.output_tokens == 40


def test_fail_ends_with_the_named_error() -> None:
    with pytest.raises(RequestCancelledError, match="enough of this"):
        answer(ask("text first\necho:fail cancelled enough of this"))


def test_hang_never_ends_and_can_be_cancelled() -> None:
    engine = build()
    engine.submit(engine.prepare(ask("echo:hang")))
    assert [type(e) for o in steps(engine, most=5) for e in o.events] == [Started]
    engine.cancel("r1")
    assert not engine.has_work()


def test_break_raises_out_of_step() -> None:
    engine = build()
    engine.submit(engine.prepare(ask("echo:break")))
    with pytest.raises(RuntimeError):
        steps(engine)


def test_prefill_takes_chunks_and_reports_progress() -> None:
    events = events_of(ask("w " * 20), prefill_tokens_per_s=100)
    progress = [(e.done_tokens, e.total_tokens) for e in events if isinstance(e, Progress)]
    assert progress == [(10, 20), (20, 20)]


def test_a_prompt_is_begun_in_the_step_that_computes_its_first_chunk() -> None:
    """So that one of a single chunk has its first word with the next word of those that run."""
    engine = build(prefill_tokens_per_s=1_000_000)
    engine.submit(engine.prepare(ask("echo:words 5", id="runs")))
    for _ in range(2):
        step(engine)
    engine.submit(engine.prepare(ask("one two", id="came")))
    told = [[(output.key, *map(type, output.events)) for output in step(engine)] for _ in range(2)]
    assert told == [
        [("runs", TextDelta), ("came", Started), ("came", Progress)],
        [("runs", TextDelta), ("came", TextDelta)],
    ]


def test_prompts_of_the_highest_class_are_computed_first() -> None:
    engine = build(prefill_tokens_per_s=1000)
    for name, priority in (("late", "batch"), ("soon", "side"), ("now", "interactive")):
        engine.submit(engine.prepare(ask("w " * 150, id=name, priority=priority)))
    told = [(output.key, event) for output in steps(engine) for event in output.events]
    firsts = [
        next(at for at, (key, event) in enumerate(told) if key == name and type(event) is TextDelta)
        for name in ("now", "soon", "late")
    ]
    assert firsts == sorted(firsts)


def test_logprobs_name_the_word() -> None:
    events = events_of(ask("word", sampling=SamplingParams(top_logprobs=0)))
    assert [p.token for e in events if isinstance(e, TextDelta) for p in e.logprobs] == ["word"]


def test_an_empty_message_is_answered_with_nothing() -> None:
    events = events_of(ask(""))
    assert [type(e) for e in events] == [Started, Finished]


def test_counting_agrees_with_preparing() -> None:
    engine, request = build(), ask("count these words", tools=(WEATHER,))
    assert engine.count(request) == engine.prepare(request).prompt_tokens


def test_loading_reports_progress_to_the_end() -> None:
    seen: list[float] = []
    build().load(seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("options", [{"speed": 1}, {"step_ms": "fast"}])
def test_a_bad_option_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        build(**options)


# --- as a Mac of set speed ------------------------------------------------------------------------------------------

MAC = {"prefill_tokens_per_s": 1_000_000, "cache_tokens": 10_000}


def talk(engine: EchoEngine, *texts: str, request_id: str = "r") -> Finished:
    roles: Any = ("user", "assistant")
    messages = tuple(Message(role=roles[number % 2], parts=(TextPart(text=text),)) for number, text in enumerate(texts))
    engine.submit(engine.prepare(GenerateRequest(id=request_id, model="echo", messages=messages)))
    return [event for output in steps(engine) for event in output.events if isinstance(event, Finished)][-1]


def test_a_next_turn_computes_only_what_is_new_and_so_does_a_fork() -> None:
    engine = build(**MAC)
    words = " ".join(f"w{number}" for number in range(500))
    assert talk(engine, words).usage.cached_tokens == 0
    assert talk(engine, words, words, "and now").usage.cached_tokens == 1000, "the answer as it was said, too"
    assert 480 <= talk(engine, words + " another").usage.cached_tokens <= 500
    assert build(prefill_tokens_per_s=1e6).stats().residents.memory == {}


def test_what_has_no_room_in_memory_comes_from_disk() -> None:
    engine = build(prefill_tokens_per_s=1_000_000, cache_tokens=1200, disk_tokens=9000, disk_tokens_per_s=1_000_000)
    first, other = (" ".join(f"{name}{number}" for number in range(500)) for name in "ab")
    talk(engine, first)
    talk(engine, other)
    again = talk(engine, first, "no", "more")
    assert again.usage.restored_tokens >= 480
    assert again.usage.cached_tokens == 500


def test_the_lease_knows_what_prefill_costs_and_what_waits_for_it() -> None:
    engine = build(prefill_tokens_per_s=1000, slow_at_tokens=2000, cache_tokens=10_000)
    cost = engine.stats().prefill_cost
    assert cost.predict_s(0, 100) == pytest.approx(0.1, rel=0.05)
    assert cost.predict_s(2000, 2100) == pytest.approx(0.2, rel=0.05)
    engine._model.cache.keep("", pack_words(f"w{number}" for number in range(400)))
    engine.submit(engine.prepare(ask(" ".join(f"w{number}" for number in range(500)), priority="side")))
    waiting_s = engine.stats().waiting_s
    assert waiting_s[:2] == (0.0, 0.0)
    assert waiting_s[2] == pytest.approx(cost.predict_s(400, 500), rel=0.1), "what is cached need not be waited for"


def test_who_leaves_while_its_prompt_is_prefilled_leaves_what_was_computed() -> None:
    engine = build(prefill_tokens_per_s=100_000, cache_tokens=100_000)
    engine.submit(engine.prepare(ask(" ".join(f"w{number}" for number in range(30_000)))))
    step(engine)  # its first chunk
    engine.cancel("r1")
    assert engine._model.cache.tokens > 0
