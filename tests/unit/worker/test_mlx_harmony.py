"""gpt-oss through the whole MLX engine: random weights that a grammar makes say a given answer, token by token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.events import ReasoningDelta, Started, TextDelta, ToolCallDelta, ToolCallFinished, ToolCallStarted, assemble
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.request import ToolChoice, ToolDefinition
from tests.models.random_checkpoint import SPECIAL, build_checkpoint
from tests.support.mlx_engine import Driver, message, request
from tests.unit.worker.prompt_models import TEMPLATES
from worker.engines.tokens.constraint import Grammar

# The control tokens take the places of the preset's own; the files say that <|end|> ends an answer, as some do.
RENAMED = dict(
    zip(
        SPECIAL,
        ("<|return|>", "<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>"),
        strict=True,
    )
)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = (ToolDefinition(name="get_weather", description="Weather", parameters=SCHEMA),)
THINK = "<|channel|>analysis<|message|>I need the weather.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = build_checkpoint("gpt-oss", tmp_path_factory.mktemp("gpt-oss"), params=3e5, wordy=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (out / name).read_text(encoding="utf8")
        for own, theirs in RENAMED.items():
            text = text.replace(json.dumps(own), json.dumps(theirs))
        (out / name).write_text(text, encoding="utf8")
    content = json.loads((out / "tokenizer.json").read_text(encoding="utf8"))
    for added in content["added_tokens"]:
        added["special"] = True
    (out / "tokenizer.json").write_text(json.dumps(content), encoding="utf8")
    (out / "chat_template.jinja").write_text((TEMPLATES / "harmony.jinja").read_text(), encoding="utf8")
    return out


@pytest.fixture
def driver(folder: Path) -> Driver:
    return Driver(folder)


def say(driver: Driver, key: str, messages: Sequence[Message], text: str, **options: Any) -> list[Any]:
    """The answer's parts when the model says `text`, and then an end token."""
    prepared = driver.engine.prepare(request(key, messages, max_tokens=400, tools=TOOLS, **options))
    tokens = driver.engine._model.tokenizer.encode(text, add_special_tokens=False)
    script = Grammar(text="start: " + " ".join(f"<[{token}]>" for token in tokens) + "\n")
    driver.submit_prepared(replace(prepared, payload=replace(prepared.payload, grammar=script)))
    driver.step_until(lambda: not driver.engine.has_work())
    driver.check()
    assert driver.tokens[key][:-1] == tokens
    return list(assemble(driver.events[key]).parts)


def test_the_engine_offers_tools_and_reasoning_and_ends_at_calls_and_returns(driver: Driver) -> None:
    names = driver.engine._model.tokenizer.convert_ids_to_tokens(sorted(driver.engine._model.tokenizer.eos_token_ids))
    assert set(names) == {"<|return|>", "<|call|>"}


def test_an_answer_comes_out_as_reasoning_and_a_streamed_call_and_its_result_is_answered_from_the_cache(
    driver: Driver,
) -> None:
    asked = [message("user", "What is the weather in Oslo, please? " * 4)]
    reasoning, call = say(driver, "a", asked, THINK + CALL)
    assert reasoning == ReasoningPart(text="I need the weather.")
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    assert assemble(driver.events["a"]).reason == "tool_calls"
    kinds = [type(event) for event in driver.events["a"]]
    assert kinds.count(ReasoningDelta) > 1
    assert kinds.count(ToolCallDelta) > 1
    assert [kind for kind in kinds if kind in (ToolCallStarted, ToolCallFinished)] == [
        ToolCallStarted,
        ToolCallFinished,
    ]

    answer = Message(role="assistant", parts=(call,))  # as most clients do, without the reasoning
    result = Message(role="tool", parts=(ToolResultPart(call_id=call.id, parts=(TextPart(text="rain"),)),))
    before = driver.engine.prepare(request("a", asked, tools=TOOLS)).payload.prompt.tokens + driver.tokens["a"][:-1]
    after = driver.engine.prepare(request("b", [*asked, answer, result], tools=TOOLS)).payload.prompt.tokens
    assert after[: len(before)] == before
    parts = say(driver, "b", [*asked, answer, result], "<|channel|>final<|message|>It rains.")
    assert parts == [TextPart(text="It rains.")]
    usage = next(event.usage for event in driver.events["b"] if isinstance(event, Started))
    assert usage.cached_tokens >= len(before) - 1


def test_text_is_streamed_without_any_markup(driver: Driver) -> None:
    asked = [message("user", "Hi")]
    preamble = "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant"
    parts = say(driver, "a", asked, f"{THINK}{preamble}<|channel|>final<|message|>It is 5 < 6 | 7 > 3.")
    assert parts == [ReasoningPart(text="I need the weather."), TextPart(text="One moment.\n\nIt is 5 < 6 | 7 > 3.")]
    assert sum(isinstance(event, TextDelta) for event in driver.events["a"]) > 3


@pytest.mark.parametrize("mode", ["any", "tool"])
def test_a_demanded_call_is_made_whatever_the_weights_say(driver: Driver, mode: Any) -> None:
    choice = ToolChoice(mode=mode, name="get_weather" if mode == "tool" else "")
    asked = request("r", [message("user", "Hi")], max_tokens=300, tools=TOOLS, tool_choice=choice)
    asked = replace(asked, reasoning=replace(asked.reasoning, enabled=False))
    assert driver.engine.prepare(asked).warnings == ()
    (answer,) = driver.run(asked)
    (call,) = answer.parts
    assert isinstance(call, ToolCallPart)
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")
    assert answer.reason == "tool_calls"


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        (THINK + CALL, True),
        (CALL, True),
        (f"{THINK}<|channel|>final<|message|>Rain, {{}}.", True),
        (CALL.replace("Oslo", "Paris"), False),
        (CALL.replace("get_weather", "other"), False),
    ],
)
def test_strict_tools_bind_calls_and_leave_the_model_free_to_answer(
    driver: Driver, text: str, is_allowed: bool
) -> None:
    strict = tuple(replace(tool, strict=True) for tool in TOOLS)
    prepared = driver.engine.prepare(request("r", [message("user", "Hi")], tools=strict))
    assert prepared.warnings == ()
    state = driver.engine._constraints.start(prepared.payload.grammar)
    assert state is not None
    tokens = driver.engine._model.tokenizer.encode(text, add_special_tokens=False)
    assert (all(map(state.accept, tokens)) and state.is_complete) is is_allowed


def test_a_response_schema_is_kept_in_the_final_message(driver: Driver) -> None:
    asked = replace(request("r", [message("user", "Hi")], max_tokens=300), response_schema=SCHEMA)
    (answer,) = driver.run(replace(asked, reasoning=replace(asked.reasoning, enabled=False)))
    (part,) = answer.parts
    assert isinstance(part, TextPart)
    assert json.loads(part.text)["city"] in ("Oslo", "Rome")
    final = driver.engine._model.tokenizer.encode("<|channel|>final<|message|>", add_special_tokens=False)
    assert driver.tokens["r"][: len(final)] == final
