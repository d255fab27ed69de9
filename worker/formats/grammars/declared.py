"""What a tool declares of its arguments, for the formats that write them one by one."""

from __future__ import annotations

from typing import Any

from shared.request import ToolDefinition
from worker.formats.grammars.lark import Rules
from worker.formats.schemas import Schema, arguments_of, dereferenced

# What is said of the arguments together, and of objects and arrays where no JSON is written.
_TOGETHER = (
    *("minProperties", "maxProperties", "patternProperties", "propertyNames", "unevaluatedProperties"),
    *("dependentRequired", "dependentSchemas", "dependencies", "not", "if", "anyOf", "oneOf"),
)
_INSIDE = (*_TOGETHER[:-2], "prefixItems", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems")


def declared(rules: Rules, tool: ToolDefinition) -> tuple[dict[str, Any], frozenset[str]]:
    """The parameters and the names of the required ones; warns of what is said of them beyond that."""
    root = dict(tool.parameters)
    _warn(rules, dereferenced(root, root), _TOGETHER)
    return arguments_of(root)


def warn_inside(rules: Rules, branch: Schema) -> None:
    """Warns of what a schema says of an object or an array that these rules do not enforce."""
    _warn(rules, branch, _INSIDE)


def _warn(rules: Rules, schema: Schema, keywords: tuple[str, ...]) -> None:
    for keyword in keywords:
        if keyword in schema:
            rules.drop(keyword)
