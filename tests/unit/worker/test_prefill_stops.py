"""Projects whose system texts differ by a path in their middle share what stands before it, also in caches that cannot
be cut."""

from __future__ import annotations

import pytest

from shared.events import Completion
from shared.request import ToolDefinition
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker, some
from worker.engines.mlx.prefill.stops import parting, stops_of
from worker.prompt import Boundary, Prompt

WORDS = "alpha beta gamma delta token queue worker cache model server "
TOOLS = (ToolDefinition(name="Bash", description=f"Run. {WORDS * 20}", parameters={"type": "object"}),)
# The system text before the tools, as many templates write it.
SYSTEM_FIRST = """
{%- if messages[0].role == 'system' -%}{{ '<|im_start|>system\n' + messages[0].content + '\n' }}
{%- for tool in tools or [] -%}{{ tool | tojson }}{%- endfor -%}{{ '<|im_end|>\n' }}{%- endif -%}
{%- for m in messages -%}{%- if m.role != 'system' -%}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""


def prompt_of(*boundaries: tuple[str, int]) -> Prompt:
    marks = tuple(Boundary(kind, 0, offset) for kind, offset in boundaries)  # type: ignore[arg-type]
    return Prompt(tokens=[0] * (boundaries[-1][1] + 1), boundaries=marks, in_reasoning=False)


def test_stops_are_the_boundaries_and_where_the_head_parts_from_what_was_kept() -> None:
    prompt = prompt_of(("tools", 500), ("system", 1000), ("message", 1010), ("message", 1050), ("prompt", 1060))
    assert stops_of(prompt, depth=0, parted=None, spacing=32) == (500, 1000, 1050, 1060)
    assert stops_of(prompt, depth=0, parted=700, spacing=32) == (500, 700, 1000, 1050, 1060)
    assert stops_of(prompt, depth=500, parted=700, spacing=32) == (700, 1000, 1050, 1060)
    for near in (480, 500, 520, 990, 1000, 1030, 1060):
        assert stops_of(prompt, depth=0, parted=near, spacing=32) == (500, 1000, 1050, 1060)
    assert stops_of(prompt, depth=690, parted=700, spacing=32) == (1000, 1050, 1060)
    assert stops_of(prompt_of(("prompt", 900)), depth=0, parted=400, spacing=32) == (900,)


def test_the_part_in_which_a_prompt_differs_is_named() -> None:
    prompt = prompt_of(("tools", 500), ("system", 1000), ("message", 1010), ("prompt", 1060))
    assert [parting(prompt, common) for common in (0, 700, 1000, 1020, 1060)] == [
        "tools",
        "system",
        "message 0",
        "prompt",
        "prompt",
    ]


def projects(driver: Driver) -> list[Completion]:
    """A first turn in each of four projects."""
    answers = []
    for name in ("one", "two", "three", "four"):
        text = f"F {WORDS * 20} memory at /p/{name}/memory/ {WORDS * 20}"
        answers += driver.run(
            request(name, [message("system", text), message("user", f"hello {name}")], tools=TOOLS, max_tokens=2)
        )
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("preset", some(("window", "hybrid"), "hybrid"))
@pytest.mark.parametrize("is_system_first", [False, True], ids=["tools first", "system first"])
def test_the_second_project_pays_once_and_later_ones_share_the_head(
    preset: str, is_system_first: bool, random_checkpoint: CheckpointMaker
) -> None:
    driver = Driver(random_checkpoint(preset))
    if is_system_first:
        driver.engine._loaded.tokenizer.chat_template = SYSTEM_FIRST  # type: ignore[union-attr]
        driver.engine._build_for_requests(driver.engine._loaded)  # type: ignore[arg-type]
    first, second, third, fourth = projects(driver)
    cached = [answer.usage.cached_tokens for answer in (first, second, third, fourth)]
    total = first.usage.input_tokens
    assert cached[0] == 0
    assert cached[1] == 0 if is_system_first else total // 4 < cached[1] < total // 2
    assert min(cached[2:]) > total // 5 if is_system_first else min(cached[2:]) > total // 2
    # What is resumed there gives what is computed cold.
    cold = Driver(random_checkpoint(preset), cache_min_reuse_tokens=1 << 20)
    if is_system_first:
        cold.engine._loaded.tokenizer.chat_template = SYSTEM_FIRST  # type: ignore[union-attr]
        cold.engine._build_for_requests(cold.engine._loaded)  # type: ignore[arg-type]
    projects(cold)
    assert cold.tokens == driver.tokens
