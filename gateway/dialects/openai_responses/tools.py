"""Tools of all the API's kinds as functions, which is all that models know, and back.

A tool of a namespace is called `<namespace>__<name>` by the model alone; the client hears both words. A tool that takes
free text is a function of one string. What only the vendor's servers can run is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from gateway.canonical import arguments_text
from gateway.dialects import fields
from shared.request import ToolDefinition

INPUT: Final = "input"  # the one argument of a tool that takes free text
TOOL_SEARCH: Final = "tool_search"
_SEPARATOR: Final = "__"
_TEXT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the client calls a tool."""

    kind: Literal["function", "custom", "tool_search"] = "function"
    name: str
    namespace: str = ""


@dataclass(slots=True)
class Toolbox:
    """The tools of one request, filled while it is read. `definitions` and `origins` are by the model's name for each
    tool; `dropped` are those that nobody here can run."""

    definitions: dict[str, ToolDefinition] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    dropped: dict[str, None] = field(default_factory=dict)
    unenforced: dict[str, None] = field(default_factory=dict)
    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    _has_hosted_search: bool = False

    def add(self, value: Any, *, late: bool = False) -> tuple[str, ...]:
        """Every tool of a list. The model's names for those that can be called, which are shown where they join when
        they come `late`."""
        added: list[str] = []
        fields.each(fields.optional_sequence(value), lambda item: self._take(item, "", late, added))
        return tuple(added)

    def callable(self) -> tuple[ToolDefinition, ...]:
        """Nobody here searches among deferred tools for the model, as it can through its client; where a request
        counts on that, the model is shown all of them."""
        if not self._has_hosted_search:
            return tuple(self.definitions.values())
        return tuple(replace(tool, deferred=False) for tool in self.definitions.values())

    def name_for_model(self, name: str, namespace: str = "") -> str:
        return self._names.get((namespace, name)) or _joined(namespace, name)

    def _take(self, item: Any, namespace: str, late: bool, added: list[str]) -> str:
        tool = fields.mapping(item)
        kind = fields.optional_string(tool.get("type"), "type") or "function"
        if kind == "namespace" and not namespace:
            self._take_namespace(tool, late, added)
            return ""
        read = _READERS.get(kind)
        if read is None or (kind == TOOL_SEARCH and tool.get("execution") != "client"):
            self._drop(kind, tool)
            return ""
        definition, origin = read(tool)
        if kind == "custom" and _grammar(tool)[0] == "lark":
            self.unenforced[origin.name] = None
        return self._keep(definition, replace(origin, namespace=namespace), late, added)

    def _take_namespace(self, tool: Mapping[str, Any], late: bool, added: list[str]) -> None:
        """What is said of a namespace stands before what is said of its first tool."""
        namespace = fields.name(tool.get("name"), "name")
        description = fields.optional_string(tool.get("description"), "description")
        is_late = late or fields.boolean(tool.get("defer_loading"), "defer_loading")
        with fields.within("tools"):
            items = fields.optional_sequence(tool.get("tools"))
            names = fields.each(items, lambda item: self._take(item, namespace, is_late, added))
        first = next(filter(None, names), "")
        if first and description:
            definition = self.definitions[first]
            text = f"{description}\n\n{definition.description}".strip()
            self.definitions[first] = replace(definition, description=text)

    def _drop(self, kind: str, tool: Mapping[str, Any]) -> None:
        if kind == TOOL_SEARCH:
            self._has_hosted_search = True
            return
        name = tool.get("name")
        self.dropped[name if isinstance(name, str) and name else kind] = None

    def _keep(self, definition: ToolDefinition, origin: Origin, late: bool, added: list[str]) -> str:
        """The first of one name stays: later ones are the same, found once more. Empty for those."""
        if (known := self._names.get((origin.namespace, origin.name))) is not None:
            added.extend([known] if late and self.definitions[known].deferred else [])
            return ""
        name = _joined(origin.namespace, origin.name)
        while name in self.definitions:
            name += "_"
        self._names[origin.namespace, origin.name] = name
        self.origins[name] = origin
        self.definitions[name] = replace(definition, name=name, deferred=late or definition.deferred)
        added.append(name)
        return name


def text_arguments(text: str) -> str:
    """Free text as the arguments of the function that stands for its tool."""
    return arguments_text({INPUT: text})


def _joined(namespace: str, name: str) -> str:
    if not namespace:
        return name
    return f"{namespace}{'' if namespace.endswith(_SEPARATOR) else _SEPARATOR}{name}"


def _read_function(tool: Mapping[str, Any]) -> tuple[ToolDefinition, Origin]:
    """Flat as this API has it, or below `function` as in Chat Completions."""
    nested = isinstance(tool.get("function"), dict)
    with fields.within(*(("function",) if nested else ())):
        function = tool["function"] if nested else tool
        name = fields.name(function.get("name"), "name")
        return ToolDefinition(
            name=name,
            description=fields.optional_string(function.get("description"), "description"),
            parameters=dict(fields.optional_mapping(function.get("parameters"), "parameters")),
            strict=fields.boolean(function.get("strict"), "strict"),
            deferred=fields.boolean(tool.get("defer_loading"), "defer_loading"),
        ), Origin(name=name)


def _read_custom(tool: Mapping[str, Any]) -> tuple[ToolDefinition, Origin]:
    """A regular expression is enforced as the pattern of the text; another grammar is shown."""
    name = fields.name(tool.get("name"), "name")
    texts = [fields.optional_string(tool.get("description"), "description")]
    syntax, grammar = _grammar(tool)
    schema = _TEXT_SCHEMA
    if syntax == "regex":
        schema = _TEXT_SCHEMA | {"properties": {INPUT: {"type": "string", "pattern": f"^(?:{grammar})$"}}}
    elif grammar:
        texts.append(f"`{INPUT}` follows this grammar ({syntax}):\n{grammar}")
    definition = ToolDefinition(
        name=name,
        description="\n\n".join(filter(None, texts)),
        parameters=schema,
        strict=syntax == "regex",
        deferred=fields.boolean(tool.get("defer_loading"), "defer_loading"),
    )
    return definition, Origin(kind="custom", name=name)


def _grammar(tool: Mapping[str, Any]) -> tuple[str, str]:
    """(syntax, definition) of what a text must look like; both empty for any text."""
    wanted = tool.get("format")
    if not isinstance(wanted, dict) or wanted.get("type") != "grammar":
        return "", ""
    inner = wanted.get("grammar")
    grammar = inner if isinstance(inner, dict) else wanted
    with fields.within("format"):
        return fields.string(grammar.get("syntax"), "syntax"), fields.string(grammar.get("definition"), "definition")


def _read_tool_search(tool: Mapping[str, Any]) -> tuple[ToolDefinition, Origin]:
    return ToolDefinition(
        name=TOOL_SEARCH,
        description=fields.optional_string(tool.get("description"), "description"),
        parameters=dict(fields.optional_mapping(tool.get("parameters"), "parameters")),
    ), Origin(kind="tool_search", name=TOOL_SEARCH)


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], tuple[ToolDefinition, Origin]]]] = {
    "function": _read_function,
    "custom": _read_custom,
    TOOL_SEARCH: _read_tool_search,
}
