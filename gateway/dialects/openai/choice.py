"""Choices of tools that the vendor's APIs spell alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields
from shared.request import ToolChoice, ToolDefinition


def worded_choice(value: Any, tools: tuple[ToolDefinition, ...], *, has_dropped: bool, parallel: bool) -> ToolChoice:
    match value:
        case None | "auto":
            return ToolChoice(parallel=parallel)
        case "none":
            return ToolChoice(mode="none")
        case "required" if tools:
            return ToolChoice(mode="any", parallel=parallel)
        case "required" if has_dropped:
            return ToolChoice(parallel=parallel)
        case "required":
            fields.refuse("may be 'required' only with function tools")
    fields.refuse("Input should be 'none', 'auto', 'required' or a tool to call")


def named_choice(function: Mapping[str, Any], tools: tuple[ToolDefinition, ...], *, parallel: bool) -> ToolChoice:
    name = fields.name(function.get("name"), "name")
    if all(tool.name != name for tool in tools):
        fields.refuse(f"there is no function {name!r} among the tools", "name")
    return ToolChoice(mode="tool", name=name, parallel=parallel)
