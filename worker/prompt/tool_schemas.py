"""Schemas of a tool's parameters as chat templates can read them.

Templates are programs over a schema, written for one of a common form: they take `properties` for granted, ask whether
a name is `in` what is required, and join `type` to text. A harmless schema that is written otherwise must not fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worker.formats.schemas import dereferenced

Schema = dict[str, Any]

_SINGLE = ("items", "additionalProperties", "not")
_LISTS = ("anyOf", "oneOf", "allOf")
_WORDS = ("description", "title")
_DEPTH = 12


def complete(schema: Mapping[str, Any]) -> Schema:
    """The schema of a tool's parameters with everything in its place: every object has `properties`, `required` is a
    list or absent. What is right stays as it is."""
    whole = _completed(schema)
    return {**({} if "type" in whole else {"type": "object"}), **whole, "properties": whole.get("properties") or {}}


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
    return complete(_simple(schema, dict(schema)))


def _simple(schema: Any, root: Schema, depth: int = 0) -> Schema:
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {"type": "string"}
    chosen = _one_form(dereferenced(dict(schema), root))
    kind = _one_type(chosen)
    out: Schema = {"type": kind, **{key: chosen[key] for key in _WORDS if chosen.get(key) is not None}}
    if kind == "string" and chosen.get("enum"):
        out["enum"] = [str(value) for value in chosen["enum"]]
    if kind == "array":
        out["items"] = _simple(chosen.get("items") or {"type": "string"}, root, depth + 1)
    if kind == "object" and isinstance(chosen.get("properties"), Mapping):
        out["properties"] = {name: _simple(value, root, depth + 1) for name, value in chosen["properties"].items()}
        out["required"] = [name for name in chosen.get("required") or () if name in out["properties"]]
    return out


def _one_form(schema: Schema) -> Schema:
    """With the first alternative of each union, and all of what must hold together."""
    chosen = dict(schema)
    for key in _LISTS:
        options = [option for option in schema.get(key) or [] if isinstance(option, Mapping)]
        for option in options if key == "allOf" else options[:1]:
            chosen = {**option, **{name: value for name, value in chosen.items() if name != key}}
    return chosen


def _one_type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
    named = [item for item in kinds if isinstance(item, str) and item != "null"]
    if named:
        return named[0]
    return "object" if "properties" in schema else "array" if "items" in schema else "string"
