"""`tool_choice` -> which tools may, must or must not be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields
from gateway.dialects.openai.choice import named_choice, worded_choice
from gateway.dialects.openai_responses.tools import Toolbox
from shared.request import ToolChoice, ToolDefinition

_Tools = tuple[ToolDefinition, ...]


def parse_tool_choice(value: Any, box: Toolbox, *, parallel: bool) -> tuple[ToolChoice, _Tools]:
    """(the choice, the tools it leaves). What only a tool that was dropped can meet is not demanded."""
    tools, has_dropped = box.callable(), bool(box.dropped)
    if not isinstance(value, dict):
        return worded_choice(value, tools, has_dropped=has_dropped, parallel=parallel), tools
    match fields.string(value.get("type"), "type"):
        case "allowed_tools":
            inner = value.get("allowed_tools")
            allowed = inner if isinstance(inner, dict) else value
            with fields.within("tools"):
                tools = _allowed(allowed.get("tools"), box, tools)
            mode = worded_choice(allowed.get("mode"), tools, has_dropped=has_dropped, parallel=parallel)
            return mode, tools
        case "function" | "custom" as kind:
            inner = value.get(kind)
            chosen = inner if isinstance(inner, dict) else value
            name = box.name_for_model(fields.name(chosen.get("name"), "name"), _namespace(chosen))
            return named_choice({"name": name}, tools, parallel=parallel), tools
        case _:
            return ToolChoice(parallel=parallel), tools


def _namespace(value: Mapping[str, Any]) -> str:
    return fields.optional_string(value.get("namespace"), "namespace")


def _allowed(value: Any, box: Toolbox, tools: _Tools) -> _Tools:
    def name_of(item: Any) -> str:
        tool = fields.mapping(item)
        inner = tool.get("function")
        named = inner if isinstance(inner, dict) else tool
        return box.name_for_model(fields.optional_string(named.get("name"), "name"), _namespace(named))

    names = set(fields.each(fields.sequence(value), name_of))
    return tuple(tool for tool in tools if tool.name in names)
