"""The tools of a request as mlx-lm's parsers read them."""

from __future__ import annotations

from typing import Any

from shared.request import ToolDefinition
from worker.formats.schemas import arguments_of, stated


def definition(tool: ToolDefinition, family: str) -> dict[str, Any]:
    """An entry of the form that templates and parsers know. Every parameter's schema is an object without a
    reference; qwen3_coder's parser knows a type only where `type` names a single one."""
    properties, _ = arguments_of(tool.parameters)
    root = dict(tool.parameters)
    single = family == "qwen3_coder"
    seen = {key: stated(schema, root, single=single) for key, schema in properties.items()}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": {**root, "properties": seen}},
    }
