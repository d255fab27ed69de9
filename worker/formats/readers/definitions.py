"""What readers must know of a request's tools: which arguments each declares, and of which types they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.request import ToolDefinition
from worker.formats.schemas import arguments_of, dereferenced, types

Kinds = frozenset[str]


@dataclass(frozen=True, slots=True)
class Declared:
    """`kinds` are the JSON types of each declared argument, `schemas` all that is said of it in the document `root`.
    `is_open`: others may be given, because the schema says so or declares none. `required` have to be given."""

    kinds: Mapping[str, Kinds]
    is_open: bool
    required: frozenset[str] = frozenset()
    schemas: Mapping[str, Any] = field(default_factory=dict)
    root: dict[str, Any] = field(default_factory=dict)

    def may_begin(self, key: str, given: frozenset[str]) -> bool:
        """Whether this argument can come next."""
        return key not in given and (self.is_open or key in self.kinds)


_UNKNOWN = Declared({}, is_open=True)


class Tools:
    """The tools of one request, found by name; models may write a name in the wrong case."""

    def __init__(self, tools: Sequence[ToolDefinition] = ()) -> None:
        self._by_name = {tool.name: tool for tool in tools}
        self._declared: dict[str, Declared] = {}
        self.spelled = tuple(self._by_name)
        self.names = frozenset(name.casefold() for name in self._by_name)

    def offers(self, name: str) -> bool:
        return name.casefold() in self.names

    def of(self, name: str) -> Declared:
        """What the tool declares; of a tool that nobody offered, nothing."""
        if name not in self._declared:
            tool = self._by_name.get(name) or self._alike(name)
            self._declared[name] = _UNKNOWN if tool is None else _declared(tool)
        return self._declared[name]

    def _alike(self, name: str) -> ToolDefinition | None:
        alike = [tool for known, tool in self._by_name.items() if known.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else None


def _declared(tool: ToolDefinition) -> Declared:
    root = dict(tool.parameters)
    try:
        properties, required = arguments_of(root)
        others = dereferenced(root, root).get("additionalProperties")
        kinds = {key: types(schema, root) for key, schema in properties.items()}
        pattern = "patternProperties" in root
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError):  # a malformed schema says nothing
        return _UNKNOWN
    is_open = not kinds or pattern or (others is not None and others is not False)
    return Declared(kinds, is_open, required, properties, root)
