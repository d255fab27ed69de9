"""The laws of prompts on chat templates of real models, from a folder that `MLX_GATEWAY_TEST_TEMPLATES` names.

The folder is no part of this repository. Without it these tests say so and are skipped; `tests/unit/worker/templates`
holds small templates with the features that were found.
"""

from __future__ import annotations

import itertools
import os
import random
from functools import cache, partial
from pathlib import Path

import pytest

from shared.messages import Message, ReasoningPart
from tests.models.templates import (
    broken_law,
    call,
    conversation,
    difference,
    own_losses,
    request_of,
    result,
    said,
    text,
    tokenizer_for,
)
from tests.unit.worker.prompt_models import FAMILIES, TEMPLATES
from worker.engines.tokens.call_trip import failed_trips
from worker.prompt import PromptBuilder
from worker.prompt.image_pieces import ImageAlbum

VARIABLE = "MLX_GATEWAY_TEST_TEMPLATES"
FOLDER = os.environ.get(VARIABLE, "")
_PATHS = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []
_OWN = [TEMPLATES / f"{name}.jinja" for name in FAMILIES if name not in ("demo", "numbered")]

each_template = pytest.mark.parametrize("path", [*_OWN, *_PATHS], ids=lambda path: path.stem)


@cache
def built(path: Path) -> PromptBuilder:
    return PromptBuilder(tokenizer_for(path.read_text()), context_tokens=1 << 20)


def test_the_folder_of_real_templates_is_there() -> None:
    if not FOLDER:
        pytest.skip(f"NO REAL TEMPLATES WERE TRIED: set {VARIABLE} to a folder of chat templates (*.jinja)")
    assert _PATHS


@each_template
def test_each_prompt_of_a_tool_conversation_begins_with_the_one_before(path: Path) -> None:
    assert not broken_law(built(path))


@each_template
def test_a_turn_is_rendered_without_its_history(path: Path) -> None:
    assert built(path).facts.mode != "whole"


@each_template
@pytest.mark.parametrize("thinking", [None, True, False])
def test_what_stands_before_the_header_is_what_the_template_writes_without_it(
    path: Path, thinking: bool | None
) -> None:
    builder = built(path)
    messages, ends = conversation(reasoning=thinking is True)
    request = request_of(messages[: ends[-1]], thinking)
    head, read, _ = builder._read(request, ImageAlbum(request.messages, None))
    dicts = [*read.system, *(message for unit in read.units for message in unit.dicts)]
    for end, tools in itertools.product(range(len(read.system) + 1, len(dicts) + 1), (head.scene.tools, ())):
        write = partial(builder._template.render, dicts[:end], tools, head.scene.switches, day=head.scene.day)
        apart = builder._template.render_apart(dicts[:end], tools, head.scene.switches, day=head.scene.day)
        assert apart in (None, (write(header=False), write(header=True)))


@each_template
def test_a_prompt_differs_from_the_templates_own_only_where_that_contradicts_itself(path: Path) -> None:
    if difference(tokenizer_for(path.read_text()), built(path)):
        assert any(own_losses(built(path)))


@pytest.mark.slow
@each_template
@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_is_the_same_after_a_restart(path: Path, seed: int) -> None:
    """Whatever a builder has seen before: this conversation turn by turn, and others."""
    chance = random.Random(seed)
    tokenizer = tokenizer_for(path.read_text())
    seasoned = PromptBuilder(tokenizer, context_tokens=1 << 20)
    for rounds in (3, 14, 24):
        messages = mixed(chance, rounds)
        thinking = chance.choice((None, True, False))
        ends = [at for at, message in enumerate(messages) if message.role == "assistant"]
        for end in (*ends, len(messages)):
            tokens = seasoned.build(request_of(messages[:end], thinking)).tokens
        fresh = PromptBuilder(tokenizer, context_tokens=1 << 20)
        assert tokens == fresh.build(request_of(messages, thinking)).tokens


def mixed(chance: random.Random, rounds: int) -> list[Message]:
    """Answers, some with reasoning, and calls, some of them parallel, with users' words between them."""
    messages, calls = [said("user", text(f"question {chance.randrange(99)}"))], itertools.count(1)
    for _ in range(rounds):
        thought = [ReasoningPart(text="hm")] if chance.random() < 0.4 else []
        if chance.random() < 0.4:
            messages += [said("assistant", *thought, text("so")), said("user", text(chance.choice(("7", "/no_think"))))]
            continue
        made = [next(calls) for _ in range(chance.choice((1, 1, 2, 3)))]
        beside = [text("I look")] if chance.random() < 0.5 else []
        messages.append(said("assistant", *thought, *beside, *(call(n, "Bash", command=f"cat {n}") for n in made)))
        messages += [result(number, f"file {number}") for number in made]
    return messages


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_calls_as_a_template_of_a_real_model_writes_them_are_read_back(path: Path) -> None:
    assert failed_trips(tokenizer_for(path.read_text()), built(path)) == {}
