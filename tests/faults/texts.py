"""What the model `said` says: long enough in each part that a fault can come in its middle."""

from __future__ import annotations

import json
from pathlib import Path

from tests.models.call_templates import template_of
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.support.call_writers import write_answer
from worker.formats.families import FAMILIES

_FAMILY = FAMILIES["qwen3_coder"]
LAYERS = 12  # that add nothing but the time they take
TOOL = {
    "name": "Write",
    "description": "Write a file",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "lines": {"type": "array", "items": {"type": "string"}}},
    "required": ["title", "lines"],
    "additionalProperties": False,
}
# The word in the last message, and what is said after it.
PARTS = ("reason", "call", "json", "text")


def _words(name: str, count: int) -> str:
    return " ".join(f"{name}{number}" for number in range(count))


def texts() -> dict[str, str]:
    call = {"path": "notes.txt", "content": _words("line", 220)}
    return {
        "text": _words("said", 220),
        "reason": f"<think>\n{_words('thought', 160)}\n</think>\n\n{_words('told', 20)}",
        "call": write_answer(_FAMILY, [("Write", call)]),
        "json": json.dumps({"title": "many", "lines": [_words(f"entry{n}-", 12) for n in range(12)]}),
    }


def build_said(out: Path) -> Path:
    """The checkpoint, in the folder `out`."""
    choice = "{%- if add_generation_prompt -%}{%- set last = messages[-1].content | string -%}"
    for index, name in enumerate(PARTS):
        choice += f"{{%- {'if' if index == 0 else 'elif'} '{name}' in last -%}}{{{{ '{cue(name)}' }}}}"
    choice += "{%- endif -%}{%- endif -%}"
    return build_scripted(out, texts(), template_of(_FAMILY) + choice, layers=LAYERS)
