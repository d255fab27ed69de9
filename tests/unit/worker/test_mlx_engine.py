"""The engine's behaviour, seen from the worker: what a request gets, when, and what it leaves behind."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from shared.errors import InvalidRequestError, PromptTooLongError
from shared.events import Finished, Progress, Started, TextDelta, assemble
from shared.messages import Message, TextPart, ToolCallPart
from shared.request import GenerateRequest, Priority, SamplingParams, ToolChoice, ToolDefinition
from shared.worker_metrics import FIGURES
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from worker.engines.base import Output

SHELL = ToolDefinition(
    name="Bash",
    description="Run a command",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
)
HEAD = message("system", standard_library_text(4000))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: CheckpointMaker) -> Path:
    return random_checkpoint("full")


@pytest.fixture
def driver(full: Path) -> Driver:
    return Driver(full)


def ask(key: str, text: str = "go on", **sampling: object) -> GenerateRequest:
    sampling = {"max_tokens": 12, "temperature": 0.0} | sampling
    return request(key, [HEAD, message("user", text)], sampling=SamplingParams(**sampling))  # type: ignore[arg-type]


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def token_bytes(folder: Path) -> int:
    """Of a full-attention float32 model: keys and values of every layer."""
    config = json.loads((folder / "config.json").read_text())
    return 2 * 4 * int(config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"])


def test_the_engines_figures_have_names_and_meanings(driver: Driver) -> None:
    driver.run(ask("a"))
    told = set(driver.engine.stats().metrics)
    assert len(told) > 15
    assert told <= set(FIGURES)


def test_trained_model_answers_and_calls_tools_with_its_own_defaults(demo_model: Path) -> None:
    driver = Driver(demo_model)
    plain = GenerateRequest(id="a", model="m", messages=(message("user", "hi"),))
    call = GenerateRequest(id="b", model="m", messages=(message("user", "run: `ls -la`"),), tools=(SHELL,))
    first, second = driver.run(plain, call)
    assert first.parts == (
        TextPart(text="Hello! I am a tiny test model. Point the configuration at a real model to get real answers."),
    )
    assert first.reason == "stop"
    (part,) = second.parts
    assert isinstance(part, ToolCallPart)
    assert '"ls -la"' in part.arguments
    assert second.reason == "tool_calls"


def test_one_call_at_most_means_one_though_the_model_would_make_two(demo_model: Path) -> None:
    twice = GenerateRequest(id="a", model="m", messages=(message("user", "run twice: `ls -la`"),), tools=(SHELL,))
    once = replace(twice, id="b", tool_choice=ToolChoice(parallel=False))
    both, one = Driver(demo_model).run(twice, once)
    assert [type(part) for part in both.parts] == [ToolCallPart, ToolCallPart]
    assert [type(part) for part in one.parts] == [ToolCallPart]
    assert one.reason == "tool_calls"
    assert one.usage.output_tokens < both.usage.output_tokens


def test_usage_counts_the_prompt_the_cached_part_and_every_generated_token(driver: Driver) -> None:
    (first,) = driver.run(ask("a"))
    (second,) = driver.run(ask("b"))
    prompt = driver.engine.count(ask("c"))
    assert (first.usage.input_tokens, first.usage.cached_tokens, first.usage.output_tokens) == (prompt, 0, 12)
    assert second.usage.cached_tokens == prompt - 1
    assert first.reason == "length"
    assert first.parts == second.parts


def test_events_come_as_started_progress_text_finished(full: Path) -> None:
    driver = Driver(full, prefill_step_tokens=256)
    driver.run(ask("a"))
    kinds = [type(event) for event in driver.events["a"]]
    assert kinds[0] is Started
    assert kinds[-1] is Finished
    progress = [event for event in driver.events["a"] if isinstance(event, Progress)]
    assert len(progress) > 2
    assert [event.done_tokens for event in progress] == sorted(event.done_tokens for event in progress)
    assert {event.total_tokens for event in progress} == {driver.engine.count(ask("b"))}
    assert kinds.index(TextDelta) > max(index for index, kind in enumerate(kinds) if kind is Progress)


def test_that_a_prompt_begins_is_told_before_any_of_it_is_computed(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker measures from there: a prompt of one chunk would else seem to take no time."""
    told: list[list[type]] = []
    advance = driver.engine._prefiller.advance

    def watched(*arguments: Any, **options: Any) -> Any:
        told.append([type(event) for event in driver.events["a"]])
        return advance(*arguments, **options)

    monkeypatch.setattr(driver.engine._prefiller, "advance", watched)
    driver.run(ask("a"))
    assert told[0] == [Started]


def test_stop_sequence_that_spans_tokens_ends_the_answer_before_it(driver: Driver) -> None:
    (whole,) = driver.run(ask("a", max_tokens=30))
    (part,) = whole.parts
    assert isinstance(part, TextPart)
    words = part.text.split(" ")
    stop = f"{words[3][-2:]} {words[4][:2]}"
    (cut,) = driver.run(ask("b", max_tokens=30, stop=(stop,)))
    assert (cut.reason, cut.stop_sequence) == ("stop_sequence", stop)
    assert cut.parts == (TextPart(text=part.text[: part.text.index(stop)]),)


def test_answer_that_fills_the_context_says_so(full: Path) -> None:
    driver = Driver(full, max_context_tokens=64)
    item = request("a", [message("user", "word " * 40)], max_tokens=1000)
    (answer,) = driver.run(item)
    assert answer.reason == "context_length"
    assert answer.usage.input_tokens + answer.usage.output_tokens == 64


def test_too_long_prompt_is_refused_with_the_numbers(full: Path) -> None:
    driver = Driver(full, max_context_tokens=64)
    asked = request("a", [message("user", "word " * 90)])
    with pytest.raises(PromptTooLongError) as caught:
        driver.engine.prepare(asked)
    assert caught.value.details["context_tokens"] == 64
    assert caught.value.details["prompt_tokens"] > 64
    assert driver.engine.count(asked) == caught.value.details["prompt_tokens"]


def test_context_is_no_larger_than_memory_allows(full: Path) -> None:
    """Beside an eighth of what the weights leave, which is for what passes compute."""
    needed = Driver(full).engine.count(ask("a"))

    def memory_bytes(tokens: int) -> int:
        return weight_bytes(full) + tokens * token_bytes(full) * 8 // 7

    tight = Driver(full, memory_bytes=memory_bytes(needed - 100))
    with pytest.raises(PromptTooLongError):
        tight.engine.prepare(ask("a"))
    roomy = Driver(full, memory_bytes=memory_bytes(needed + 100))
    roomy.engine.prepare(ask("a"))


# --- cancelling ---------------------------------------------------------------------------------------------------


def test_cancelled_while_waiting_leaves_nothing(driver: Driver) -> None:
    driver.submit(ask("a"))
    driver.engine.cancel("a")
    assert not driver.engine.has_work()
    assert driver.step() == []
    driver.check()


def test_cancelled_in_prefill_keeps_what_was_computed(full: Path) -> None:
    driver = Driver(full, prefill_step_tokens=256)
    driver.submit(ask("a"))
    driver.step_until(lambda: any(isinstance(event, Progress) for event in driver.events["a"]))
    driver.engine.cancel("a")
    driver.check()
    assert not driver.engine.has_work()
    (answer,) = driver.run(ask("b"))
    assert answer.usage.cached_tokens >= 256


def test_cancelled_while_decoding_keeps_the_answer_so_far_and_disturbs_nobody(driver: Driver) -> None:
    (alone,) = driver.run(ask("x", "other", max_tokens=30))
    driver.submit(ask("a", max_tokens=1000), ask("b", "other", max_tokens=30))
    driver.step_until(lambda: len(driver.tokens["a"]) >= 10)
    driver.engine.cancel("a")
    driver.step_until(lambda: not driver.engine.has_work())
    assert assemble(driver.events["b"]).parts == alone.parts
    assert not any(isinstance(event, Finished) for event in driver.events["a"])
    driver.check()


def test_unknown_request_can_be_cancelled(driver: Driver) -> None:
    driver.engine.cancel("nobody")


def test_unloading_twice_is_harmless(driver: Driver) -> None:
    driver.submit(ask("a"))
    driver.engine.unload()
    driver.engine.unload()
    assert not driver.engine.has_work()


# --- pausing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3, "frequency_penalty": 0.4}])
def test_a_paused_answer_goes_on_as_if_nothing_had_been_and_computes_nothing_again(
    full: Path, sampling: dict[str, float]
) -> None:
    driver = Driver(full, capacity=1)
    (whole,) = driver.run(ask("whole", max_tokens=60, **sampling))
    driver.submit(ask("a", max_tokens=60, **sampling))
    driver.step_until(lambda: len(driver.tokens["a"]) >= 20)
    driver.engine.pause("a")
    driver.engine.pause("a")  # once more changes nothing
    driver.check()
    said = len(driver.tokens["a"])
    driver.submit(ask("visitor", "another question", max_tokens=30))
    driver.step_until(lambda: any(isinstance(event, Finished) for event in driver.events["visitor"]))
    assert len(driver.tokens["a"]) == said
    computed = sum(driver.engine._prefiller.computed_tokens.values())
    driver.step_until(lambda: not driver.engine.has_work())
    assert sum(driver.engine._prefiller.computed_tokens.values()) - computed <= 2
    assert driver.tokens["a"] == driver.tokens["whole"]
    assert assemble(driver.events["a"]).parts == whole.parts
    driver.check()


def test_paused_in_prefill_a_prompt_is_not_computed_twice(full: Path) -> None:
    driver = Driver(full, prefill_step_tokens=256, capacity=1)
    driver.submit(ask("a"))
    driver.step_until(lambda: any(isinstance(event, Progress) for event in driver.events["a"]))
    done = driver.engine._sequences["a"].position
    driver.engine.pause("a")
    driver.submit(ask("visitor", "short"))
    driver.step_until(lambda: any(isinstance(event, Finished) for event in driver.events["visitor"]))
    assert not driver.tokens["a"]
    driver.step_until(lambda: driver.engine._sequences["a"].lease is not None)
    assert driver.engine._sequences["a"].position >= done >= 256
    driver.step_until(lambda: not driver.engine.has_work())
    driver.check()


# --- what leaves when ---------------------------------------------------------------------------------------------


def test_decoded_tokens_leave_before_the_prefill_chunk_that_follows_them(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream's token is not held back for the seconds that somebody else's prompt takes."""
    driver.submit(ask("stream", max_tokens=200))
    driver.step_until(lambda: len(driver.tokens["stream"]) >= 3)
    order: list[str] = []
    advance, emit = driver.engine._prefiller.advance, driver.emit

    def noted_advance(*arguments: Any, **options: Any) -> Any:
        order.append("chunk")
        return advance(*arguments, **options)

    def noted_emit(outputs: Sequence[Output]) -> None:
        order.extend(output.key for output in outputs if output.token_ids)
        emit(outputs)

    monkeypatch.setattr(driver.engine._prefiller, "advance", noted_advance)
    monkeypatch.setattr(driver, "emit", noted_emit)
    driver.submit(request("long", [message("user", standard_library_text(9000))]))
    driver.step_until(lambda: bool(driver.tokens["long"]))
    chunks = [index for index, what in enumerate(order) if what == "chunk"]
    assert len(chunks) > 3
    assert all(order[index - 1] == "stream" for index in chunks)


# --- sampling -----------------------------------------------------------------------------------------------------


def test_seed_gives_the_same_answer_alone_and_in_a_batch(driver: Driver) -> None:
    seeded = {"temperature": 1.0, "top_p": 0.9, "seed": 7, "max_tokens": 20}
    driver.run(ask("alone", **seeded))
    others = [ask(str(i), f"number {i}", temperature=1.3, max_tokens=15 + i) for i in range(3)]
    driver.submit(*others)
    driver.step_until(lambda: len(driver.tokens["1"]) > 2)
    driver.run(ask("batched", **seeded), ask("other seed", **seeded | {"seed": 8}))
    assert driver.tokens["batched"] == driver.tokens["alone"]
    assert driver.tokens["other seed"] != driver.tokens["alone"]


def test_answers_without_a_seed_differ(driver: Driver) -> None:
    driver.run(*(ask(str(i), temperature=1.5, max_tokens=20) for i in range(3)))
    assert len({tuple(tokens) for tokens in driver.tokens.values()}) == 3


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-9}, {"min_p": 1.0}])
def test_narrowest_sampling_is_greedy(driver: Driver, narrow: dict[str, float]) -> None:
    driver.run(ask("greedy"), ask("narrow", temperature=2.0, **narrow))
    assert driver.tokens["narrow"] == driver.tokens["greedy"]


def test_logit_bias_forbids_and_forces(driver: Driver) -> None:
    driver.run(ask("a"))
    first = driver.tokens["a"][0]
    driver.run(ask("b", logit_bias={first: -100.0}), ask("c", logit_bias={1234: 1000.0}))
    assert driver.tokens["b"][0] != first
    assert driver.tokens["c"] == [1234] * 12


def test_logit_bias_outside_the_vocabulary_is_refused(driver: Driver) -> None:
    with pytest.raises(InvalidRequestError):
        driver.engine.prepare(ask("a", logit_bias={10**6: 1.0}))


@pytest.mark.parametrize("penalty", [{"presence_penalty": 1e4}, {"frequency_penalty": 1e4}])
def test_strong_penalties_never_repeat_a_generated_token(driver: Driver, penalty: dict[str, float]) -> None:
    driver.run(ask("a", max_tokens=40, **penalty))
    assert len(set(driver.tokens["a"])) == 40


def test_repetition_penalty_shuns_what_the_prompt_said(driver: Driver) -> None:
    driver.run(ask("a", max_tokens=20, repetition_penalty=1e6))
    prompt = driver.engine.prepare(ask("b")).payload.prompt.tokens
    assert not set(driver.tokens["a"]) & set(prompt)


def test_logprobs_come_with_their_alternatives_best_first(driver: Driver) -> None:
    answer, plain = driver.run(ask("a", top_logprobs=3), ask("b"))
    assert len(answer.logprobs) == 12
    assert plain.logprobs == ()
    for entry in answer.logprobs:
        assert [other.logprob for other in entry.top] == sorted((o.logprob for o in entry.top), reverse=True)
        assert entry.logprob == pytest.approx(entry.top[0].logprob)
        assert entry.token == entry.top[0].token
    text = b"".join(entry.token_bytes for entry in answer.logprobs).decode()
    (part,) = answer.parts
    assert isinstance(part, TextPart)
    assert text.strip() == part.text.strip()


def test_logprobs_of_a_characters_parts_carry_its_bytes(demo_model: Path) -> None:
    driver = Driver(demo_model)
    tokens = driver.engine._model.tokenizer.encode("👋", add_special_tokens=False)
    assert len(tokens) > 1
    biases = [{token: 100.0} for token in tokens]
    asked = [ask(str(n), max_tokens=1, logit_bias=bias, top_logprobs=0) for n, bias in enumerate(biases)]
    entries = [answer.logprobs[0] for answer in driver.run(*asked)]
    assert b"".join(entry.token_bytes for entry in entries).decode() == "👋"


def test_logprobs_stay_with_their_request_while_others_come_and_go(driver: Driver) -> None:
    (alone,) = driver.run(ask("alone", top_logprobs=0, max_tokens=25))
    driver.submit(*(ask(str(i), f"number {i}", max_tokens=4 + 5 * i) for i in range(3)))
    (together,) = driver.run(ask("together", top_logprobs=0, max_tokens=25))
    assert [e.token for e in together.logprobs] == [e.token for e in alone.logprobs]
    for mine, theirs in zip(together.logprobs, alone.logprobs, strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)


# --- the prefix cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["full", "window", "hybrid"])
def test_same_cold_prefix_at_the_same_moment_is_computed_once(preset: str, random_checkpoint: CheckpointMaker) -> None:
    driver = Driver(random_checkpoint(preset), prefill_step_tokens=256)
    answers = driver.run(*(ask(str(i), f"question {i}") for i in range(4)))
    computed = sum(answer.usage.input_tokens - answer.usage.cached_tokens for answer in answers)
    shared = driver.engine.count(request("x", [HEAD]))
    assert computed < shared + 4 * 60


def test_a_prefix_being_computed_is_computed_by_the_next_when_its_owner_leaves(full: Path) -> None:
    driver = Driver(full, prefill_step_tokens=256)
    driver.submit(ask("a", "first"), ask("b", "second"))
    driver.step_until(lambda: any(isinstance(event, Progress) for events in driver.events.values() for event in events))
    (first,) = (key for key, events in driver.events.items() if events)
    driver.engine.cancel(first)
    driver.step_until(lambda: not driver.engine.has_work())
    (other,) = {"a", "b"} - {first}
    assert assemble(driver.events[other]).usage.cached_tokens >= 256


def test_one_tenants_prompt_never_helps_another(driver: Driver) -> None:
    driver.run(replace(ask("a"), tenant="one"))
    (other,) = driver.run(replace(ask("b"), tenant="two"))
    (same,) = driver.run(replace(ask("c"), tenant="one"))
    assert other.usage.cached_tokens == 0
    assert same.usage.cached_tokens > 0


def test_prefixes_shorter_than_the_least_reuse_are_computed_again(full: Path) -> None:
    driver = Driver(full, cache_min_reuse_tokens=100_000)
    driver.run(ask("a"))
    (again,) = driver.run(ask("b"))
    assert again.usage.cached_tokens == 0
    assert driver.engine.stats().cache_bytes == 0


def test_byte_budget_holds_and_the_side_request_goes_first(full: Path) -> None:
    driver = Driver(full, cache_bytes=3_000_000)
    driver.run(ask("main"))
    for number in range(12):
        side = request(f"side{number}", [message("system", f"{number} " + HEAD.parts[0].text[:3000])])  # type: ignore[union-attr]
        driver.run(replace(side, priority="side"))
        assert driver.engine.stats().cache_bytes <= 3_000_000
    assert driver.engine.stats().metrics["prefix_cache_evictions"] > 0
    (again,) = driver.run(ask("again"))
    assert again.usage.cached_tokens == again.usage.input_tokens - 1


@pytest.mark.parametrize(
    ("preset", "priority"), [("full", "side"), pytest.param("window", "subagent", marks=pytest.mark.slow)]
)
def test_lesser_requests_push_out_nothing_of_the_latest_conversations(
    random_checkpoint: CheckpointMaker, preset: str, priority: Priority
) -> None:
    """Not even a last short message, which is cheaply computed again. Ones that are older may go."""
    driver = Driver(random_checkpoint(preset), cache_bytes=1_500_000, ssd_cache_bytes=-1)
    (answer,) = driver.run(ask("main"))
    said = [HEAD, message("user", "go on"), Message(role="assistant", parts=answer.parts), message("user", "and on")]
    (second,) = driver.run(request("second", said, max_tokens=12))
    for number in range(24):
        other = request(f"other{number}", [message("system", f"{number} " + standard_library_text(3000))])
        driver.run(replace(other, priority=priority))
    assert driver.engine.stats().metrics["prefix_cache_evictions"] > 0
    said += [Message(role="assistant", parts=second.parts), message("user", "and on")]
    (third,) = driver.run(request("third", said, max_tokens=12))
    assert third.usage.cached_tokens >= second.usage.input_tokens


# --- scheduling ---------------------------------------------------------------------------------------------------


def test_running_streams_get_a_token_in_every_step_of_someone_elses_prefill(full: Path) -> None:
    driver = Driver(full, prefill_step_tokens=128, options={"drafting": "off"})
    driver.submit(request("stream", [message("user", "talk")], max_tokens=500))
    driver.step_until(lambda: len(driver.tokens["stream"]) > 3)
    driver.submit(ask("long"))
    while not driver.tokens["long"]:
        before = len(driver.tokens["stream"])
        driver.step()
        assert len(driver.tokens["stream"]) == before + 1


def test_short_prompt_overtakes_a_long_one_under_way(full: Path) -> None:
    driver = Driver(full, prefill_step_tokens=128)
    driver.submit(ask("long"))
    driver.step_until(lambda: len(driver.events["long"]) > 2)
    driver.submit(request("short", [message("user", "quick")]))
    driver.step_until(lambda: bool(driver.tokens["short"]))
    assert not driver.tokens["long"]


@pytest.fixture
def memory_limit() -> Iterator[None]:
    """Puts the limit back that an engine set for the whole process."""
    before = mx.set_memory_limit(1 << 40)
    yield
    mx.set_memory_limit(before)


@pytest.mark.slow
@pytest.mark.usefixtures("memory_limit")
def test_want_of_memory_interrupts_and_resumes_without_a_trace(full: Path) -> None:
    """Room for the four prompts and answers of ordinary length, not for what the answers grow to."""

    def long(key: str) -> GenerateRequest:
        sampling = SamplingParams(max_tokens=1200, temperature=1.0, seed=int(key), frequency_penalty=0.1)
        return request(key, [message("user", f"question {key}")], sampling=sampling)

    keys = ["1", "2", "3", "4"]
    free = Driver(full)
    expected = free.run(*map(long, keys))
    gc.collect()  # the engines of other tests
    mx.clear_cache()
    base = mx.get_active_memory() + weight_bytes(full)
    tight = Driver(full, memory_bytes=base + 3500 * token_bytes(full), cache_bytes=1)
    answers = tight.run(*map(long, keys))
    assert tight.engine.stats().metrics["interruptions"] > 0
    assert tight.tokens == free.tokens
    assert [answer.parts for answer in answers] == [answer.parts for answer in expected]


@pytest.mark.usefixtures("memory_limit")
def test_want_of_memory_interrupts_the_lowest_class_first_then_the_latest(full: Path) -> None:
    driver = Driver(full)
    for key, priority in (("b1", "batch"), ("main", "interactive"), ("b2", "batch"), ("late", "interactive")):
        driver.submit(request(key, [message("user", key)], max_tokens=60, priority=priority))
    driver.step_until(lambda: driver.engine.stats().running == 4)
    order: list[str] = []
    engine: Any = driver.engine
    engine._interrupt = lambda sequence: (order.append(sequence.key), type(engine)._interrupt(engine, sequence))
    engine._room.relieve = lambda: False
    for _ in range(3):
        engine._relieve()
    assert order == ["b2", "b1", "late"]


@pytest.mark.slow
@pytest.mark.usefixtures("memory_limit")
def test_a_side_request_waits_for_memory_instead_of_pushing_the_main_conversation_out(full: Path) -> None:
    gc.collect()  # the engines of other tests
    mx.clear_cache()
    base = mx.get_active_memory() + weight_bytes(full)
    driver = Driver(full, memory_bytes=base + 5000 * token_bytes(full), cache_bytes=2500 * token_bytes(full))
    main = [message("system", standard_library_text(4000)), message("user", "one")]
    driver.run(request("main", main))
    driver.submit(request("stream", [message("user", "talk")], max_tokens=700))
    driver.step_until(lambda: len(driver.tokens["stream"]) > 2)
    driver.submit(request("side", [message("user", standard_library_text(7000))], max_tokens=600, priority="side"))
    for _ in range(300):
        driver.step()
        assert not driver.events["side"], "it began, at the cost of what is kept, although the stream will end"
    assert not isinstance(driver.events["stream"][-1], Finished)
    assert driver.engine.store.nbytes > 1000 * token_bytes(full)
    driver.step_until(lambda: not driver.engine.has_work())
    assert isinstance(driver.events["side"][-1], Finished)


def test_stats_follow_the_work(driver: Driver) -> None:
    driver.submit(ask("a", max_tokens=300), ask("b", "other", max_tokens=300))
    waiting = driver.engine.stats()
    assert (waiting.running, waiting.waiting) == (0, 2)
    assert waiting.waiting_tokens > 500
    driver.step_until(lambda: driver.engine.stats().running == 2)
    driver.step_until(lambda: not driver.engine.has_work())
    done = driver.engine.stats()
    assert (done.running, done.waiting, done.waiting_tokens) == (0, 0, 0)
    assert done.prefill_tokens_per_s > 0
    assert done.decode_tokens_per_s > 0
    assert done.prefill_cost.is_known
    assert done.metrics["decode_slack_ms"] > 0
    assert done.cache_bytes > 0


# --- why it was computed ------------------------------------------------------------------------------------------


def test_usage_says_where_a_prompt_parted_from_what_was_kept(driver: Driver) -> None:
    first, second = message("user", "one two three"), message("user", "seven eight nine")
    answer = message("assistant", "four five six")
    (cold,) = driver.run(request("cold", [HEAD, first, answer, second]))
    (same,) = driver.run(request("same", [HEAD, first, answer, second]))
    (grown,) = driver.run(request("grown", [HEAD, first, answer, second, answer, first]))
    (edited,) = driver.run(request("edited", [HEAD, first, message("assistant", "not that"), second]))
    assert (cold.usage.parted, same.usage.parted) == ("", "")
    assert grown.usage.parted in ("", "prompt", "message 4")  # the answer that was generated is another one
    assert edited.usage.parted == "message 2"
    head = HEAD.parts[0]
    assert isinstance(head, TextPart)
    (other,) = driver.run(request("other", [message("system", head.text[:3000] + " but not the rest"), first]))
    assert other.usage.parted == "system"
    assert driver.engine.stats().metrics["computed_tokens_system"] > 0
