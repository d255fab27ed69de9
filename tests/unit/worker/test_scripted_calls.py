"""Every family's calls through the real engine: from a request to the events of its answer, at a checkpoint that says
what such a model would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.events import ToolCallDelta
from shared.messages import TextPart, ToolCallPart
from shared.request import ToolChoice, ToolDefinition
from tests.models.call_templates import template_of
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.support.call_writers import holds_several, write_answer
from tests.support.mlx_engine import Driver, message, request
from worker.engines.tokens.output import output_format
from worker.formats.families import FAMILIES, Family, Nested, Python, Tagged

# Whose shape another family has, too: tried by `make test-all`.
ALIKE = {
    *(
        "apriel",
        "cohere",
        "command_r",
        "deepseek_v31",
        "deepseek_v4",
        "functools",
        "gigachat",
        "granite3",
        "laguna",
        "nemotron",
    ),
    *("function_gemma", "longcat", "muse_spark", "phi4_mini", "seed_oss", "solar"),
}
EDIT = ToolDefinition(
    name="edit_file",
    parameters={
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "new": {"type": "string"},
            "old": {"type": "string"},
            "line": {"type": "integer"},
            "options": {"type": "object"},
        },
        "required": ["path", "new"],
        "additionalProperties": False,
    },
)


def closers(family: Family) -> str:
    """Text that spells the family's own markup."""
    return f"{family.shape.value_end} {family.shape.value_end}x" if isinstance(family.shape, Tagged) else "</x>"


def calls_of(family: Family) -> list[tuple[str, dict[str, Any]]]:
    code = f"    if x:\n        return '{closers(family)}'  # 你好 👋\n"
    first: dict[str, Any] = {"path": " a b.py", "new": code, "old": "null", "line": 9007199254740993}
    if not isinstance(family.shape, Nested | Python):
        first["options"] = {"deep": [1, {"k": None}]}
    if family.name == "function_gemma":
        del first["options"]
    return [("edit_file", first), ("edit_file", {"path": "ü", "new": "1234567890123456789"})]


def scripted(family: Family, out: Path, texts: dict[str, str]) -> Driver:
    first = next(name for name in texts)
    template = template_of(family) + "{%- if add_generation_prompt -%}{{ '" + cue(first) + "' }}{%- endif -%}"
    signs = f"{{# {family.signs[0]} #}}" if family.signs else ""
    return Driver(build_scripted(out, texts, template + signs))


families = [
    pytest.param(family, id=name, marks=pytest.mark.slow if name in ALIKE else ())
    for name, family in FAMILIES.items()
    if name not in ("laguna",)
]


@pytest.mark.parametrize("family", families)
def test_what_a_model_of_the_family_says_reaches_the_events_as_it_was_written(family: Family, tmp_path: Path) -> None:
    calls = calls_of(family)
    if not family.start and not holds_several(family):
        calls = calls[:1]
    before = "Now:\n" if family.start else ""
    driver = scripted(family, tmp_path / "model", {"call": before + write_answer(family, calls)})
    form = output_format(driver.engine._model.tokenizer).answer.calls
    assert form.family.name == family.name
    asked = request("r", [message("user", "go")], max_tokens=2000, tools=(EDIT,))
    (answer,) = driver.run(asked)
    assert answer.reason == "tool_calls"
    made = [part for part in answer.parts if isinstance(part, ToolCallPart)]
    assert [(part.name, json.loads(part.arguments)) for part in made] == calls
    assert [part.text for part in answer.parts if isinstance(part, TextPart)] == (["Now:"] if before else [])
    deltas = [event for event in driver.events["r"] if isinstance(event, ToolCallDelta)]
    assert len(deltas) > len(calls), "arguments are streamed"


def test_a_forbidden_call_is_never_begun_where_one_token_begins_it(tmp_path: Path) -> None:
    family = FAMILIES["json_tools"]
    text = f"So.\n{write_answer(family, [('edit_file', {'path': 'a'})])}"
    template = template_of(family) + "{%- if add_generation_prompt -%}{{ '" + cue("call") + "' }}{%- endif -%}"
    driver = Driver(build_scripted(tmp_path / "model", {"call": text}, template, control=("<tool_call>",)))
    forbidden = ToolChoice(mode="none")
    (answer,) = driver.run(request("r", [message("user", "go")], max_tokens=9, tools=(EDIT,), tool_choice=forbidden))
    start = driver.engine._model.tokenizer.get_vocab()["<tool_call>"]
    assert start not in driver.tokens["r"]
    assert not [part for part in answer.parts if isinstance(part, ToolCallPart)]
    (free,) = driver.run(request("f", [message("user", "go")], max_tokens=99, tools=(EDIT,)))
    assert start in driver.tokens["f"]
    assert free.reason == "tool_calls"


def test_an_answer_that_max_tokens_cuts_inside_a_character_ends_before_it(tmp_path: Path) -> None:
    text = "Family 👩‍👩‍👧 and more"
    driver = scripted(FAMILIES["json_tools"], tmp_path / "model", {"text": text})
    for most in range(1, 9):
        (answer,) = driver.run(request(f"r{most}", [message("user", "go")], max_tokens=most))
        said = "".join(part.text for part in answer.parts if isinstance(part, TextPart))
        assert "\ufffd" not in said
        assert text.startswith(said)
