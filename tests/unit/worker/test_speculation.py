"""Drafts change how long an answer takes and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from shared.events import Completion
from shared.messages import Message, Part, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, SamplingParams, ToolDefinition
from tests.models.copy_checkpoint import build_copier, unique_words
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import AGENT_FULL, DEMO_MODEL, CheckpointMaker, some
from worker.engines.mlx.decode.speculation import parse_options

PRESETS = ("full", "llama", "window", "gemma3", "gpt-oss", "hybrid", "qwen3-next", "mamba2", "falcon-h1")
BASH = ToolDefinition(
    name="Bash",
    description="Run a command.",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
)
COMMAND = "find the longest line of every file below here and print them all sorted by name with their numbers"
SAMPLED = (
    {"temperature": 0.0},
    {"temperature": 0.3, "seed": 1},
    {"temperature": 0.5, "seed": 2, "top_k": 20, "repetition_penalty": 1.1},
    {"temperature": 0.4, "seed": 3, "top_p": 0.9, "frequency_penalty": 0.2, "presence_penalty": 0.1},
    {"temperature": 0.3, "seed": 4, "min_p": 0.05, "top_logprobs": 2},
)


def driver(folder: Path, drafting: str = "always", *, draft_model: Path | str = "", **settings: Any) -> Driver:
    options = {"drafting": drafting} | ({"draft_model": str(draft_model)} if draft_model else {})
    return Driver(folder, options=options, **settings)


LOGPROB_TOLERANCE = 2e-3  # float32 sums in another order


def copying(key: str, *, system: str = "", **more: Any) -> GenerateRequest:
    """A request whose answer repeats a part of its prompt."""
    head = [message("system", system)] if system else []
    return request(
        key, [*head, message("user", f"run: `{COMMAND}`")], tools=(BASH,), max_tokens=more.pop("tokens", 120), **more
    )


def sampled(key: str, messages: list[Message], **parameters: Any) -> GenerateRequest:
    return request(key, messages, sampling=SamplingParams(**{"max_tokens": 48, **parameters}))


def metric(subject: Driver, name: str) -> float:
    return subject.engine.stats().metrics[name]


def assert_same(answer: Completion, expected: Completion) -> None:
    """In everything of an answer that must not depend on how it was computed; ids of calls are drawn at random, and
    sums in another order differ in their last digits."""
    assert _counted(answer) == _counted(expected)
    logprobs, others = ([entry.logprob for entry in each.logprobs] for each in (answer, expected))
    assert logprobs == pytest.approx(others, abs=LOGPROB_TOLERANCE)


def _counted(completion: Completion) -> tuple[object, ...]:
    parts = tuple((p.name, p.arguments) if isinstance(p, ToolCallPart) else p for p in completion.parts)
    usage = completion.usage
    tokens = [entry.token for entry in completion.logprobs]
    return parts, completion.reason, completion.stop_sequence, usage.input_tokens, usage.output_tokens, tokens


# -- the same answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", some(PRESETS, "full", "hybrid"))
def test_every_kind_of_cache_and_sampling_says_the_same_with_drafts(
    preset: str, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    messages = [message("system", standard_library_text(900)), message("user", "go on")]
    chosen = (SAMPLED[0], SAMPLED[1 + PRESETS.index(preset) % 4])
    requests = [sampled(f"r{index}", messages, **parameters) for index, parameters in enumerate(chosen)]
    plain = driver(folder, "off")
    drafted = driver(folder, draft_model=folder)  # right when greedy, and now and then when not
    expected = [plain.run(item)[0] for item in requests]
    answers = [drafted.run(item)[0] for item in requests]
    assert drafted.tokens == plain.tokens
    for answer, other in zip(answers, expected, strict=True):
        assert_same(answer, other)
    assert 0 < metric(drafted, "accepted_draft_tokens") < metric(drafted, "drafted_tokens")
    assert metric(plain, "draft_passes") == 0


@pytest.mark.parametrize("folder", [DEMO_MODEL, AGENT_FULL], ids=["window", "full"])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_a_copied_text_is_drafted_from_the_prompt(folder: Path, temperature: float) -> None:
    system = standard_library_text(1500)  # more than the window
    sampling = SamplingParams(max_tokens=120, temperature=temperature, seed=5)
    item = copying("copy", system=system, sampling=sampling)
    plain, drafted = driver(folder, "off"), driver(folder)
    (expected,) = plain.run(item)
    (answer,) = drafted.run(item)
    assert drafted.tokens == plain.tokens
    assert_same(answer, expected)
    assert isinstance(answer.parts[0], ToolCallPart)
    assert metric(drafted, "accepted_draft_tokens") >= 12


def test_a_long_text_said_again_takes_few_passes(tmp_path: Path) -> None:
    said = unique_words(200)
    messages = [message("user", "say it"), message("assistant", said), message("user", "say it again")]
    folder = build_copier(tmp_path / "copier", params=1e6)
    plain, drafted = driver(folder, "off"), driver(folder)
    plain.run(request("again", messages, max_tokens=300))
    (answer,) = drafted.run(request("again", messages, max_tokens=300))
    assert drafted.tokens == plain.tokens
    assert text_of(answer) == said
    assert metric(drafted, "draft_passes") <= 16
    assert metric(drafted, "accepted_draft_tokens") == metric(drafted, "drafted_tokens") >= 180


@pytest.mark.parametrize("tokens", some(range(22, 32), 23, 26, 31))
def test_an_answer_cut_short_inside_a_draft_ends_at_the_same_token(tokens: int) -> None:
    plain, drafted = driver(AGENT_FULL, "off"), driver(AGENT_FULL)
    (expected,) = plain.run(copying("cut", tokens=tokens))
    (answer,) = drafted.run(copying("cut", tokens=tokens))
    assert drafted.tokens == plain.tokens
    assert_same(answer, expected)
    assert answer.usage.output_tokens == tokens


@pytest.mark.parametrize("folder", [DEMO_MODEL, AGENT_FULL], ids=["window", "full"])
def test_a_stop_sequence_inside_a_draft_ends_the_answer_and_the_conversation_goes_on(folder: Path) -> None:
    said = "Hello! I am a tiny test model. Point the configuration at a real model"
    item = request(
        "stop",
        [message("system", standard_library_text(1500)), message("user", f"{said} {said}")],
        sampling=SamplingParams(max_tokens=60, temperature=0.0, stop=("configuration",)),
    )
    plain, drafted = driver(folder, "off"), driver(folder)
    (expected,) = plain.run(item)
    (answer,) = drafted.run(item)
    assert answer.stop_sequence == "configuration"
    assert_same(answer, expected)
    assert metric(drafted, "accepted_draft_tokens") > 0
    following = [*item.messages, message("assistant", text_of(answer)), message("user", "again")]
    plain.run(request("next", following))
    drafted.run(request("next", following))
    assert drafted.tokens == plain.tokens


def text_of(answer: Completion) -> str:
    (part,) = answer.parts
    assert isinstance(part, TextPart)
    return part.text


def test_an_answer_of_a_demanded_form_is_not_drafted() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    messages = [message("user", 'say {"a": "b"} {"a": "b"} {"a": "b"}')]
    item = request("form", messages, response_schema=schema, max_tokens=40)
    plain, drafted = driver(AGENT_FULL, "off"), driver(AGENT_FULL)
    plain.run(item)
    drafted.run(item)
    assert drafted.tokens == plain.tokens
    assert metric(drafted, "draft_passes") == 0


# -- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [DEMO_MODEL, AGENT_FULL], ids=["window", "full"])
def test_a_conversation_goes_on_from_what_drafts_left_in_the_cache(folder: Path) -> None:
    drafted, cold = driver(folder), driver(folder, "off", cache_bytes=1)
    messages = [message("system", standard_library_text(1200)), message("user", f"run: `{COMMAND}`")]
    known = 0
    for turn in range(3):
        item = request(f"turn{turn}", messages, tools=(BASH,), max_tokens=120)
        (answer,) = drafted.run(item)
        cold.run(item)
        assert drafted.tokens == cold.tokens
        assert answer.usage.cached_tokens >= known - 4
        known = answer.usage.input_tokens + answer.usage.output_tokens
        messages += [Message(role="assistant", parts=answer.parts), *_following(answer.parts)]
    assert metric(drafted, "accepted_draft_tokens") > 20


def _following(parts: tuple[Part, ...]) -> list[Message]:
    """What a client says next."""
    calls = [part for part in parts if isinstance(part, ToolCallPart)]
    results = tuple(ToolResultPart(call_id=call.id, parts=(TextPart(text="fine"),)) for call in calls)
    return [Message(role="tool", parts=results)] if results else [message("user", f"run: `{COMMAND}`")]


@pytest.mark.parametrize("preset", some(("full", "window", "hybrid", "falcon-h1"), "hybrid"))
def test_what_a_cancelled_answer_left_in_the_cache_is_right(preset: str, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint(preset)
    head = [message("system", standard_library_text(900)), message("user", "go on")]
    plain, drafted = driver(folder, "off", cache_bytes=1), driver(folder, draft_model=folder)
    (full,) = plain.run(request("whole", head, max_tokens=60))
    drafted.submit(request("left", head, max_tokens=60))
    drafted.step_until(lambda: metric(drafted, "draft_passes") >= 1)
    drafted.engine.cancel("left")
    drafted.check()
    said = drafted.tokens["left"]
    assert said == plain.tokens["whole"][: len(said)]
    following = [*head, message("assistant", text_of(full)), message("user", "and then")]
    (answer,) = drafted.run(request("next", following))
    plain.run(request("next", following))
    assert drafted.tokens["next"] == plain.tokens["next"]
    assert answer.usage.cached_tokens > full.usage.input_tokens - 8


# -- company ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", some(("full", "window", "gemma3", "hybrid", "falcon-h1"), "full"))
@pytest.mark.parametrize("passes", [1, 3])
def test_a_second_stream_that_joins_costs_neither_a_token(
    preset: str, passes: int, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    system = message("system", standard_library_text(900))
    first = sampled("first", [system, message("user", "go on")], max_tokens=150, temperature=0.0)
    second = sampled("second", [system, message("user", "another")], max_tokens=12, temperature=0.0)
    plain, drafted = driver(folder, "off"), driver(folder, draft_model=folder)
    plain.run(first)
    plain.run(second)
    drafted.submit(first)
    drafted.step_until(lambda: metric(drafted, "draft_passes") >= passes)
    drafted.submit(second)
    drafted.step_until(lambda: len(drafted.tokens["second"]) >= 2)
    before = metric(drafted, "draft_passes")
    drafted.step_until(lambda: len(drafted.tokens["second"]) >= 10)
    assert metric(drafted, "draft_passes") == before
    drafted.step_until(lambda: not drafted.engine.has_work())
    drafted.check()
    assert drafted.tokens == plain.tokens
    assert metric(drafted, "draft_passes") > before


# -- settings -----------------------------------------------------------------------------------------------------


def test_a_draft_model_of_another_vocabulary_is_left_out_with_a_warning(
    random_checkpoint: CheckpointMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        subject = driver(AGENT_FULL, draft_model=random_checkpoint("full"))
    assert "its vocabulary differs" in caplog.text
    (answer,) = subject.run(copying("copy"))
    assert isinstance(answer.parts[0], ToolCallPart)


def test_a_draft_model_that_is_not_there_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        subject = driver(AGENT_FULL, draft_model=tmp_path / "gone")
    assert f"no drafting with draft_model {tmp_path / 'gone'}" in caplog.text
    (answer,) = subject.run(copying("copy"))
    assert isinstance(answer.parts[0], ToolCallPart)


def test_a_mode_of_drafting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"drafting='sometimes': expected auto, always or off"):
        driver(AGENT_FULL, "sometimes")


def test_an_option_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'draftin', expected drafting or draft_model"):
        parse_options({"draftin": "off"})
