"""JSON inside markup: its strings must not spell the markers around it, which no reader could tell from real ones,
nor its numbers be larger than readers keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from worker.formats.schemas import Schema

_ANY = {"$ref": "#/$defs/any"}
_EXACT = 2**53 - 1  # whole numbers up to here are exact in every reader
_SAYS_SOMETHING = frozenset(
    {
        "type",
        "enum",
        "const",
        "$ref",
        "anyOf",
        "oneOf",
        "allOf",
        "properties",
        "items",
        "not",
        "if",
        "pattern",
        "format",
    }
)


def guarded(schema: Schema, markers: Sequence[str]) -> Schema:
    """The schema, a document of its own, with strings that contain none of the markers. Each marker begins with an
    angle bracket and has no other. A `pattern` or `format` that a string already has is left alone."""
    pattern = _without(markers)
    text = {"type": "string", "pattern": pattern}
    plain = {"type": ["number", "boolean", "null"], **exact_bounds({})}
    lists, maps = {"type": "array", "items": _ANY}, {"type": "object", **_free_names(_ANY)}
    out = _guard(schema, pattern)
    return {**out, "$defs": {**out.get("$defs", {}), "any": {"anyOf": [text, plain, lists, maps]}}}


def exact_bounds(schema: Schema) -> Schema:
    """Bounds where the schema has none: without them a number may have more digits than its reader keeps, or none
    that ends it."""
    low = {} if {"minimum", "exclusiveMinimum"} & schema.keys() else {"minimum": -_EXACT}
    high = {} if {"maximum", "exclusiveMaximum"} & schema.keys() else {"maximum": _EXACT}
    return {**low, **high}


def _guard(schema: Any, pattern: str) -> Any:
    if schema is True or schema == {}:
        return _ANY
    if not isinstance(schema, dict):
        return schema
    out: Schema = {key: _guard_inside(key, item, pattern) for key, item in schema.items()}
    if not _SAYS_SOMETHING & out.keys():
        return {**out, **_ANY}
    _bound(out, pattern)
    return out


def _guard_inside(key: str, item: Any, pattern: str) -> Any:
    if key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(item, dict):
        return {name: _guard(each, pattern) for name, each in item.items()}
    if key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(item, list):
        return [_guard(each, pattern) for each in item]
    return _guard(item, pattern) if key in ("items", "additionalProperties") else item


def _bound(out: Schema, pattern: str) -> None:
    """What a value of each declared type may be, where the schema leaves it open."""
    declared = out.get("type")
    kinds = declared if isinstance(declared, list) else [declared]
    if "string" in kinds and not {"enum", "const", "pattern", "format", "$ref"} & out.keys():
        out["pattern"] = pattern
    if {"number", "integer"} & set(kinds) and not {"enum", "const", "$ref"} & out.keys():
        out.update(exact_bounds(out))
    if "object" in kinds and out.get("additionalProperties") is not False:
        others = out.pop("additionalProperties", _ANY)
        out.update({"additionalProperties": False} if out.get("properties") else _free_names(others))
    if "array" in kinds and "prefixItems" not in out:
        out.setdefault("items", _ANY)


def _free_names(schema: Any) -> Schema:
    """Properties of any name that has no marker in it. (Only where none is declared: a declared one that fits the
    pattern would have to fit both schemas.)"""
    return {"patternProperties": {"^[^<]*$": schema}, "additionalProperties": False}


def _without(markers: Sequence[str]) -> str:
    """A regular expression for text that contains no marker: from one angle bracket to the next it is not what
    follows in any of them."""
    return f"^[^<]*(<({_not_beginning([marker[1:] for marker in markers])}))*$"


def _not_beginning(tails: Sequence[str]) -> str:
    heads = sorted({tail[0] for tail in tails})
    options = ["", f"[^<{''.join(map(re.escape, heads))}][^<]*"]
    for head in heads:
        rests = [tail[1:] for tail in tails if tail[0] == head]
        if "" not in rests:
            options.append(f"{re.escape(head)}({_not_beginning(rests)})")
    return "|".join(options)
