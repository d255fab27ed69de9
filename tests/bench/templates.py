"""What a next turn costs with the chat templates of many families, after a history of 20,000 tokens."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench.report import Table
from tests.models.templates import HISTORY_TOKENS, tokenizer_for, turn_ms
from worker.prompt import PromptBuilder

FOLDER_VARIABLE = "MLX_GATEWAY_TEST_TEMPLATES"
OWN = Path(__file__).parents[1] / "unit" / "worker" / "templates"


def measure_templates() -> Table:
    """The templates of the folder that the variable names, else the small ones of the tests."""
    table = Table(
        title=f"A next turn after {HISTORY_TOKENS:,} tokens, median of the dearer of a user's and a tool's",
        head=("template", "mode", "turn"),
    )
    folder = Path(os.environ.get(FOLDER_VARIABLE) or OWN)
    for path in sorted(folder.glob("*.jinja")):
        builder = PromptBuilder(tokenizer_for(path.read_text()), context_tokens=1 << 20)
        table.add(path.stem, builder.facts.mode, f"{turn_ms(builder):.1f} ms")
    return table
