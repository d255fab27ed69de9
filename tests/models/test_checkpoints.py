"""The test models do what their README says, and random checkpoints of every preset load in mlx-lm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.copy_checkpoint import build_copier, unique_words
from tests.models.random_checkpoint import PRESETS, count_parameters, standard_library_text
from tests.support.models import CheckpointMaker

BASH = {
    "type": "function",
    "function": {
        "name": "Bash",
        "description": "Run a command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


def answer(folder: Path, messages: list[dict[str, Any]], **template: Any) -> str:
    from mlx_lm import generate, load

    model, tokenizer = load(str(folder))
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **template)
    return generate(model, tokenizer, prompt, max_tokens=120)


@pytest.mark.parametrize("model", ["demo_model", "agent_full"])
def test_trained_models_greet_call_a_tool_and_report_its_result(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    user = {"role": "user", "content": "run: `ls -la`"}
    assert answer(folder, [{"role": "user", "content": "hi"}], thinking=False).startswith("Hello! I am a tiny")
    called = answer(folder, [user], tools=[BASH], thinking=False)
    call = json.loads(called.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call["name"] == "Bash"
    assert call["arguments"]["command"] == "ls -la"
    history = [
        user,
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "total 8"},
    ]
    assert answer(folder, history, tools=[BASH], thinking=False) == "The tool said: total 8. All done."


@pytest.mark.slow
def test_trained_model_is_right_behind_twelve_thousand_tokens(demo_model: Path) -> None:
    messages = [
        {"role": "system", "content": standard_library_text(30_000)},
        {"role": "user", "content": "run: `git status`"},
    ]
    assert '"command": "git status"' in answer(demo_model, messages, tools=[BASH], thinking=False)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_random_checkpoints_load_and_repeat_themselves(
    preset: str, random_checkpoint: CheckpointMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm import load, stream_generate

    from tests.support.muse_spark import run_muse_spark

    run_muse_spark(monkeypatch)
    folder = random_checkpoint(preset)
    model, tokenizer = load(str(folder))
    assert tokenizer.has_tool_calling
    assert tokenizer.has_thinking
    prompt = tokenizer.encode(standard_library_text(400))
    first, again, other = (
        [response.token for response in stream_generate(model, tokenizer, p, max_tokens=48)]
        for p in (prompt, prompt, prompt[1:])
    )
    assert first == again
    assert first != other, "what is said must depend on all that was read"
    assert len(first) == 48, "it stops at the limit only"
    assert tokenizer.encode(tokenizer.decode(first)) == first, "what it says tokenises again as it was generated"


def test_random_checkpoints_come_in_the_size_asked_for(random_checkpoint: CheckpointMaker) -> None:
    for params in (1.4e6, 7e6):
        config = json.loads((random_checkpoint("full", params=params) / "config.json").read_text())
        assert abs(count_parameters(config) - params) < 0.15 * params


@pytest.mark.slow
def test_the_copier_says_its_last_answer_again_at_any_length(tmp_path: Path) -> None:
    from mlx_lm import generate, load

    folder = build_copier(tmp_path / "copier", params=1e6)
    model, tokenizer = load(str(folder))
    said = unique_words(80)
    messages = [
        {"role": "system", "content": standard_library_text(6_000)},
        {"role": "user", "content": "say it"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "say it again"},
    ]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert generate(model, tokenizer, prompt, max_tokens=120) == said
