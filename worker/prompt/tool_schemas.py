"""Schemas of a tool's parameters as chat templates can read them.

Templates are programs over a schema, written for one of a common form: they take `properties` for granted, ask whether
a name is `in` what is required, and join `type` to text. A harmless schema that is written otherwise must not fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Schema = dict[str, Any]

_SINGLE = ("items", "additionalProperties", "not")
_LISTS = ("anyOf", "oneOf", "allOf")
_KEPT = ("description", "title", "enum", "properties", "required", "items")


def complete(schema: Mapping[str, Any]) -> Schema:
    """The schema of a tool's parameters with everything in its place: every object has `properties`, `required` is a
    list or absent. What is right stays as it is."""
    whole = _completed(schema)
    return whole if "properties" in whole else {"type": "object", **whole, "properties": {}}


def _completed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out = {key: value for key, value in schema.items() if not (key in (*_LISTS, "required") and value is None)}
    if not isinstance(out.get("required", []), list):
        del out["required"]
    if out.get("type") == "object" and not isinstance(out.get("properties"), Mapping):
        out["properties"] = {}
    return _within(out, _completed)


def _within(schema: Schema, change: Callable[[Any], Any]) -> Schema:
    """The schema with the schemas inside it changed."""
    out = dict(schema)
    if isinstance(out.get("properties"), Mapping):
        out["properties"] = {name: change(value) for name, value in out["properties"].items()}
    for key in _SINGLE:
        if key in out:
            out[key] = change(out[key])
    for key in _LISTS:
        if isinstance(out.get(key), list):
            out[key] = [change(option) for option in out[key]]
    return out


def simplified(schema: Mapping[str, Any]) -> Schema:
    """What every template can show: one type each, descriptions, and values to choose from as text."""
    return complete(_simple(schema))


def _simple(schema: Any, depth: int = 0) -> Schema:
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {"type": "string"}
    chosen = dict(schema)
    for key in _LISTS:
        options = [option for option in schema.get(key) or [] if isinstance(option, Mapping)]
        for option in options if key == "allOf" else options[:1]:
            chosen = {**option, **{name: value for name, value in chosen.items() if name != key}}
    kind = _one_type(chosen)
    out: Schema = {"type": kind, **{key: chosen[key] for key in _KEPT if chosen.get(key) is not None}}
    if kind != "object":
        out.pop("properties", None)
        out.pop("required", None)
    if "enum" in out:
        out["enum"] = [str(value) for value in out["enum"]] if kind == "string" else None
    if not out.get("enum"):
        out.pop("enum", None)
    if isinstance(out.get("properties"), Mapping):
        out["properties"] = {name: _simple(value, depth + 1) for name, value in out["properties"].items()}
    if kind == "array":
        out["items"] = _simple(out.get("items") or {"type": "string"}, depth + 1)
    return out


_DEPTH = 12


def _one_type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
    named = [item for item in kinds if isinstance(item, str) and item != "null"]
    if named:
        return named[0]
    return "object" if "properties" in schema else "array" if "items" in schema else "string"
