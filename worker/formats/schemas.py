"""JSON schemas of arguments, taken apart into the alternatives that a call format can write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from shared.exact import ExactNumber

Schema = dict[str, Any]

TYPES = ("string", "number", "boolean", "object", "array", "null")
_EITHER = ("anyOf", "oneOf")
_MAX_REFERENCES = 16  # that lead from one to the next
_MAX_ALTERNATIVES = 512
_LARGEST = frozenset({"minLength", "minimum", "exclusiveMinimum", "minItems", "minProperties"})
_SMALLEST = frozenset({"maxLength", "maximum", "exclusiveMaximum", "maxItems", "maxProperties"})


def dereferenced(schema: Any, root: Schema) -> Schema:
    """The schema with a local `$ref` at its top replaced by what it names. What is no schema object, and a reference
    that leads nowhere, says nothing."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, dict):
            return {}
        if "$ref" not in schema:
            return schema
        target = _at(root, schema["$ref"])
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **rest} if isinstance(target, dict) else rest
    return {}


def _at(root: Schema, pointer: Any) -> Any:
    """What a JSON pointer in the document names; None when it names nothing."""
    if not isinstance(pointer, str) or not pointer.startswith("#"):
        return None
    value: Any = root
    for step in unquote(pointer[1:]).split("/")[1:]:
        value = _step(value, step.replace("~1", "/").replace("~0", "~"))
    return value


def _step(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return value[int(step)] if step.isdecimal() and int(step) < len(value) else None
    return value.get(step) if isinstance(value, dict) else None


def branches(schema: Any, root: Schema) -> list[Schema]:
    """Schemas of one type each, or of the values in their `enum`, one of which every valid value fits.

    `anyOf` and `oneOf` are unions (that only one may fit is not kept), `allOf` is merged. Nothing fits `False`. A union
    that contains itself adds nothing to itself; one of more alternatives than can be written out is anything.
    """
    found: list[Schema] = []
    seen: set[str] = set()
    waiting = [schema]
    while waiting:
        option = waiting.pop()
        if option is False:
            continue
        option = dereferenced(option, root)
        key = json.dumps(option, sort_keys=True, default=repr)
        if key in seen:
            continue
        seen.add(key)
        if len(seen) > _MAX_ALTERNATIVES:
            return [{"type": kind} for kind in TYPES]
        inner = _parts(option, root)
        if inner is None:
            found += _alternatives(option)
        else:
            waiting += reversed(inner)
    return found


def _parts(schema: Schema, root: Schema) -> list[Schema] | None:
    """The schemas of which a union or an intersection is made; None for a schema that is neither."""
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            base = {key: value for key, value in schema.items() if key != word}
            return [_merged(base, dereferenced(option, root)) for option in schema[word] if option is not False]
    if not isinstance(schema.get("allOf"), list):
        return None
    base = {key: value for key, value in schema.items() if key != "allOf"}
    for option in schema["allOf"]:
        base = _merged(base, dereferenced(option, root))
    return [base]


def _alternatives(schema: Schema) -> list[Schema]:
    """Of a schema that is no union."""
    if "const" in schema:
        return [{"enum": [schema["const"]]}]
    if isinstance(schema.get("enum"), list):
        kinds = declared_types(schema)
        return [{"enum": [value for value in schema["enum"] if not kinds or fits(value, kinds)]}]
    rest = {key: value for key, value in schema.items() if key != "enum"}
    return [{**rest, "type": kind} for kind in declared_types(schema) or _implied(schema)]


def _implied(schema: Schema) -> Sequence[str]:
    if "properties" in schema:
        return ("object",)
    return ("array",) if "items" in schema else TYPES


def declared_types(schema: Schema) -> tuple[str, ...]:
    declared = schema.get("type")
    kinds = [declared] if isinstance(declared, str) else declared if isinstance(declared, list) else []
    return tuple(kind for kind in kinds if isinstance(kind, str))


def fits(value: Any, kinds: Sequence[str]) -> bool:
    """Whether a value is of one of these types."""
    kind = type_of(value)
    return kind in kinds or (kind == "integer" and "number" in kinds)


def type_of(value: Any) -> str:
    """A JSON value's type in the words of JSON Schema."""
    if isinstance(value, ExactNumber):
        return "integer" if value.is_integer else "number"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def types(schema: Any, root: Schema) -> frozenset[str]:
    """Every type that a valid value may have."""
    found: set[str] = set()
    for branch in branches(schema, root):
        found |= {type_of(value) for value in branch["enum"]} if "enum" in branch else {branch["type"]}
    return frozenset(found)


def _merged(left: Schema, right: Schema) -> Schema:
    """What both schemas ask for; of keywords that cannot be merged, the right one's."""
    out = dict(left)
    for key, value in right.items():
        mine = out.get(key)
        if key not in out or key in ("description", "title", "default", "examples"):
            out.setdefault(key, value)
        elif key == "type":
            wanted = declared_types(right)
            kinds = [
                kind for kind in declared_types(left) if kind in wanted or (kind == "integer" and "number" in wanted)
            ]
            out[key] = kinds or list(wanted)
        elif isinstance(mine, dict) and isinstance(value, dict) and key in ("properties", "$defs", "definitions"):
            out[key] = {**mine, **value}
        elif key in ("required", "anyOf", "oneOf", "allOf") and isinstance(mine, list) and isinstance(value, list):
            out[key] = [*mine, *(item for item in value if item not in mine)]
        elif key == "enum" and isinstance(mine, list) and isinstance(value, list):
            out[key] = [item for item in mine if item in value]
        elif key in _LARGEST | _SMALLEST and isinstance(mine, int | float) and isinstance(value, int | float):
            out[key] = (max if key in _LARGEST else min)(mine, value)
        else:
            out[key] = value
    return out


def arguments_of(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The declared parameters of a tool and the names of the required ones, whether they stand at the schema's top,
    behind a `$ref`, or in `allOf`; and those in `anyOf` and `oneOf`, of which none is required."""
    root = dict(parameters)
    schema = dereferenced(root, root)
    for option in _options(schema, "allOf"):
        schema = _merged(schema, dereferenced(option, root))
    for word in ("anyOf", "oneOf"):
        for option in _options(schema, word):
            also = dereferenced(option, root).get("properties")
            schema = _merged({"properties": also if isinstance(also, dict) else {}}, schema)
    properties = schema.get("properties")
    known = dict(properties) if isinstance(properties, dict) else {}
    listed = schema.get("required")
    required = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    for name in required:
        known.setdefault(name, {})
    return known, frozenset(required)


def _options(schema: Schema, word: str) -> list[Any]:
    found = schema.get(word)
    return found if isinstance(found, list) else []


def resolvable(schema: Any, root: Schema) -> Any:
    """The schema without references that lead out of the document, nowhere, or only back to themselves."""
    if isinstance(schema, dict):
        return {
            key: resolvable(item, root)
            for key, item in schema.items()
            if key != "$ref" or not isinstance(item, str) or _leads_somewhere(schema, root)
        }
    return [resolvable(item, root) for item in schema] if isinstance(schema, list) else schema


def _leads_somewhere(schema: Schema, root: Schema) -> bool:
    return _at(root, schema["$ref"]) is not None and not _is_endless(schema, root, {})


def _is_endless(schema: Any, root: Schema, known: dict[int, bool]) -> bool:
    """Whether what the schema asks for is itself again, and never anything that could be said. `known` are schemas that
    were looked at; those under way count as endless."""
    if not isinstance(schema, dict):
        return False
    if id(schema) not in known:
        known[id(schema)] = True
        all_of, *one_of = ([_is_endless(o, root, known) for o in _options(schema, w)] for w in ("allOf", *_EITHER))
        target = _at(root, schema.get("$ref"))
        known[id(schema)] = _is_endless(target, root, known) or any(all_of) or any(o and all(o) for o in one_of)
    return known[id(schema)]


def names_only(parameters: Mapping[str, Any]) -> Schema:
    """The parameters' names and which are required, and nothing of their values."""
    properties, required = arguments_of(parameters)
    return {"type": "object", "properties": dict.fromkeys(properties, True), "required": sorted(required)}


def literals(schema: Any) -> Iterator[str]:
    """The texts that a value of this schema must spell as they are: names of properties, constants and choices."""
    if isinstance(schema, dict):
        for keyword, value in schema.items():
            if keyword in ("const", "enum"):
                yield from _strings(value)
            elif keyword == "properties" and isinstance(value, dict):
                yield from value
                for inner in value.values():
                    yield from literals(inner)
            else:
                yield from literals(value)
    elif isinstance(schema, list):
        for inner in schema:
            yield from literals(inner)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
