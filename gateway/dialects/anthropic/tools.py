"""The `tools` and `tool_choice` of a request, and tools that join or leave in the middle of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.dialects import fields
from gateway.dialects.anthropic.client_tools import describe
from shared.messages import ResultPart, TextPart, ToolReferencePart
from shared.request import ToolChoice, ToolDefinition

_TOOL_SEARCH: Final = "tool_search_tool_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """`callable` are the tools the model may call, by name. `dropped` are those that only the vendor's servers can
    run: name -> type. `searches` are the vendor's tool searches, for which there is nothing left to find."""

    callable: Mapping[str, ToolDefinition] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    searches: frozenset[str] = frozenset()

    def with_added(self, added: Mapping[str, ToolDefinition]) -> Tools:
        """And those that the conversation itself defines; what the request lists goes before."""
        return replace(self, callable={**self.callable, **{k: v for k, v in added.items() if k not in self.callable}})


def parse_tools(value: Any) -> Tools:
    callable_tools: dict[str, ToolDefinition] = {}
    dropped: dict[str, str] = {}

    def take(item: Any) -> None:
        tool = fields.mapping(item)
        definition = parse_tool(tool)
        if definition is None:
            dropped[fields.optional_string(tool.get("name"), "name") or tool["type"]] = tool["type"]
            return
        if definition.name in callable_tools:
            fields.refuse(f"Tool names must be unique, {definition.name!r} is used twice", "name")
        callable_tools[definition.name] = definition

    fields.each(fields.optional_sequence(value), take)
    return _all_shown(callable_tools, dropped)


def _all_shown(callable_tools: Mapping[str, ToolDefinition], dropped: Mapping[str, str]) -> Tools:
    """Nobody here searches among deferred tools for the model (as it can through a client's own search tool), so where
    a request counts on that, the model is shown all of them and misses nothing."""
    searches = {name for name, kind in dropped.items() if kind.startswith(_TOOL_SEARCH)}
    if not searches:
        return Tools(callable=callable_tools, dropped=dropped)
    return Tools(
        callable={name: replace(tool, deferred=False) for name, tool in callable_tools.items()},
        dropped={name: kind for name, kind in dropped.items() if name not in searches},
        searches=frozenset(searches),
    )


def parse_tool(tool: Mapping[str, Any]) -> ToolDefinition | None:
    """None for a tool that only the vendor's servers can run; its `type` is a string."""
    kind = fields.optional_string(tool.get("type"), "type")
    if kind in ("", "custom") or tool.get("input_schema") is not None:
        return _parse_custom_tool(tool)
    described = describe(kind, tool)
    if described is None:
        return None
    description, schema = described
    return ToolDefinition(name=fields.name(tool.get("name"), "name"), description=description, parameters=schema)


def _parse_custom_tool(tool: Mapping[str, Any]) -> ToolDefinition:
    return ToolDefinition(
        name=fields.name(tool.get("name"), "name"),
        description=fields.optional_string(tool.get("description"), "description"),
        parameters=dict(fields.mapping(tool.get("input_schema"), "input_schema")),
        deferred=fields.boolean(tool.get("defer_loading"), "defer_loading"),
        strict=fields.boolean(tool.get("strict"), "strict"),
    )


def parse_tool_choice(value: Any, tools: Tools) -> ToolChoice:
    choice = fields.optional_mapping(value)
    if not choice:
        return ToolChoice()
    kind = fields.string(choice.get("type"), "type")
    disabled = choice.get("disable_parallel_tool_use")
    parallel = not fields.boolean(disabled, "disable_parallel_tool_use")
    match kind:
        case "auto":
            return ToolChoice(parallel=parallel)
        case "none":
            return ToolChoice(mode="none")
        case "any" if tools.callable:
            return ToolChoice(mode="any", parallel=parallel)
        case "any" if tools.dropped or tools.searches:
            return ToolChoice()
        case "any":
            fields.refuse("may only be 'any' or 'tool' while providing tools")
        case "tool":
            return _choose_tool(fields.name(choice.get("name"), "name"), tools, parallel=parallel)
    fields.refuse("Input should be 'auto', 'any', 'tool' or 'none'", "type")


def _choose_tool(name: str, tools: Tools, *, parallel: bool) -> ToolChoice:
    if name in tools.callable:
        return ToolChoice(mode="tool", name=name, parallel=parallel)
    if name in tools.dropped or name in tools.searches:
        return ToolChoice()
    fields.refuse(f"Tool '{name}' not found in provided tools")


def parse_tool_change(
    block: Mapping[str, Any], kind: str, added: dict[str, ToolDefinition]
) -> tuple[ResultPart, ...] | None:
    """A `tool_addition` or `tool_removal` of a system message: the tool is shown to the model where it joins, and
    one that is defined there goes to `added`. None for kinds of tools that are not ours to know."""
    tool = fields.mapping(block.get("tool"), "tool")
    match fields.optional_string(tool.get("type"), "tool", "type"):
        case "tool_reference":
            name = fields.name(tool.get("name"), "tool", "name")
        case "tool_definition":
            with fields.within("tool", "definition"):
                definition = parse_tool(fields.mapping(tool.get("definition")))
            if definition is None:
                return None
            name = definition.name
            added[name] = replace(definition, deferred=True)
        case _:
            return None
    if kind == "tool_removal":
        return (TextPart(text=f"The tool {name} can no longer be called."),)
    return (ToolReferencePart(tool_name=name),)


def unavailable(tools: Tools, mcp_servers: Iterable[Any]) -> tuple[str, ...]:
    """Names of what the request counts on and nobody here can run."""
    servers = [server.get("name") for server in mcp_servers if isinstance(server, dict)]
    return (*tools.dropped, *(f"MCP server {name}" for name in servers if isinstance(name, str)))
