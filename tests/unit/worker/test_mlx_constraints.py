"""Random weights babble; under a constraint they must babble in form, beside requests that are free."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from shared.events import Failed, Finished
from shared.messages import TextPart, ToolCallPart
from shared.request import ReasoningOptions, SamplingParams, ToolChoice, ToolDefinition
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from worker.engines.tokens.constraint import Constraint
from worker.formats.families import FAMILIES
from worker.formats.grammars import CALL_FORMS

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["a", "b"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["title", "kind", "count"],
    "additionalProperties": False,
}
TOOLS = tuple(ToolDefinition(name=name, parameters=SCHEMA) for name in ("Bash", "Read"))


@pytest.fixture
def driver(random_checkpoint: CheckpointMaker) -> Driver:
    return Driver(random_checkpoint("full", wordy=False))


def asked(name: str, **changes: object):
    return replace(request(name, [message("user", "hello")], max_tokens=400), **changes)


def test_a_response_schema_is_kept_whatever_the_weights_say(driver: Driver) -> None:
    (answer,) = driver.run(asked("r", response_schema=SCHEMA))
    assert answer.reason == "stop"
    (part,) = answer.parts
    assert isinstance(part, TextPart)
    value = json.loads(part.text)
    assert set(value) == {"title", "kind", "count"}
    assert value["kind"] in ("a", "b")
    assert 0 <= value["count"] <= 9


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_would_not_reason_answers_in_the_form_at_once(demo_model: Path, temperature: float) -> None:
    sampling = SamplingParams(max_tokens=400, temperature=temperature, seed=1)
    (answer,) = Driver(demo_model).run(asked("r", response_schema=SCHEMA, sampling=sampling))
    assert answer.reason == "stop"
    (part,) = answer.parts
    assert isinstance(part, TextPart)
    jsonschema.validate(json.loads(part.text), SCHEMA)


@pytest.mark.parametrize("mode", ["auto", "any"])
def test_a_model_calls_its_tools_also_when_its_answers_have_a_schema(demo_model: Path, mode: Any) -> None:
    tools = {"tools": TOOLS, "tool_choice": ToolChoice(mode=mode, parallel=False)}
    (answer,) = Driver(demo_model).run(asked("r", response_schema=SCHEMA, **tools))
    assert answer.reason == "tool_calls"
    (call,) = answer.parts
    assert isinstance(call, ToolCallPart)
    jsonschema.validate(json.loads(call.arguments), SCHEMA)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (ToolChoice(mode="any", parallel=False), {"Bash", "Read"}),
        (ToolChoice(mode="tool", name="Read", parallel=False), {"Read"}),
    ],
)
def test_a_demanded_tool_is_called_with_arguments_that_fit(driver: Driver, choice: ToolChoice, names: set) -> None:
    (answer,) = driver.run(asked("r", tools=TOOLS, tool_choice=choice))
    assert answer.reason == "tool_calls"
    calls = [part for part in answer.parts if isinstance(part, ToolCallPart)]
    assert calls
    for call in calls:
        assert call.name in names
        assert set(json.loads(call.arguments)) == {"title", "kind", "count"}


@pytest.mark.slow
def test_constrained_and_free_requests_share_a_batch_without_changing_each_other(
    random_checkpoint: CheckpointMaker,
) -> None:
    folder = random_checkpoint("full", wordy=False)
    requests = [
        asked("free"),
        asked("schema", response_schema=SCHEMA),
        asked("tool", tools=TOOLS, tool_choice=ToolChoice(mode="any", parallel=False)),
    ]
    together, alone = Driver(folder), Driver(folder)
    answers = together.run(*requests)
    assert [answer.parts for answer in answers] == [
        replace_ids(alone.run(one)[0].parts, answer.parts) for one, answer in zip(requests, answers, strict=True)
    ]


def with_family(folder: Path, out: Path, family: str) -> Path:
    """The same model, taken for one that writes calls as `family` does."""
    shutil.copytree(folder, out)
    config = json.loads((out / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps(config | {"tool_parser_type": family}))
    return out


@pytest.mark.parametrize("family", sorted(name for name in CALL_FORMS if FAMILIES[name].has_parser))
def test_every_call_format_is_enforced(random_checkpoint: CheckpointMaker, tmp_path: Path, family: str) -> None:
    driver = Driver(with_family(random_checkpoint("full", wordy=False), tmp_path / family, family))
    options = {
        "tools": TOOLS,
        "tool_choice": ToolChoice(mode="any", parallel=False),
        "reasoning": ReasoningOptions(enabled=False),
    }
    warm = SamplingParams(max_tokens=600, temperature=1.0, seed=1)
    greedy, sampled = driver.run(asked("greedy", **options), asked("sampled", sampling=warm, **options))
    for answer in (greedy, sampled):
        assert answer.reason == "tool_calls"
        (call,) = answer.parts
        assert isinstance(call, ToolCallPart)
        assert call.name in ("Bash", "Read")
        jsonschema.validate(json.loads(call.arguments), SCHEMA)


def replace_ids(parts, like):
    """Tool call ids are random: take those of the other answer."""
    return tuple(
        replace(part, id=other.id) if isinstance(part, ToolCallPart) and isinstance(other, ToolCallPart) else part
        for part, other in zip(parts, like, strict=True)
    )


def test_what_cannot_be_enforced_comes_back_as_a_warning(driver: Driver) -> None:
    prepared = driver.engine.prepare(asked("r", response_schema={"$ref": "https://example.com/away.json"}))
    assert "not enforced" in prepared.warnings[0]
    (answer,) = driver.run(asked("again", response_schema={"$ref": "https://example.com/away.json"}))
    assert answer.usage.output_tokens > 0


def test_an_answer_that_leaves_its_form_fails_and_others_go_on(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a mistake of ours or of the grammar's could let a token through that the form does not allow."""
    monkeypatch.setattr(Constraint, "allowed", lambda self, vocabulary: np.ones(vocabulary, np.bool_))
    driver.submit(asked("formed", response_schema=SCHEMA), request("free", [message("user", "hello")], max_tokens=20))
    driver.step_until(lambda: not driver.engine.has_work())
    assert isinstance(driver.events["formed"][-1], Failed)
    assert isinstance(driver.events["free"][-1], Finished)
    assert len(driver.tokens["free"]) == 20
