"""Whether a client's JSON schema is one at all: what it says in a wrong place or type is refused with the place.

What no grammar enforces is another matter (`worker.formats.enforceable`), and served with a warning. Source: JSON
Schema draft 2020-12, Core and Validation, and draft 7 where clients still write it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.dialects import fields

_TYPES: Final = ("string", "number", "integer", "boolean", "object", "array", "null")
_NOWHERE: Final = object()


def check_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema. Raises `FieldError`."""
    _schema(schema)
    _refs(schema, schema)
    return dict(schema)


def _schema(value: Any) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, dict):
        fields.refuse("Input should be a schema: an object or a boolean")
    for keyword, check in _KEYWORDS.items():
        if keyword in value:
            with fields.within(keyword):
                check(value[keyword])


def _named(value: Any) -> None:
    for name, schema in fields.mapping(value).items():
        with fields.within(name):
            _schema(schema)


def _listed(value: Any) -> None:
    if not fields.sequence(value):
        fields.refuse("List should have at least 1 item")
    fields.each(value, _schema)


def _items(value: Any) -> None:
    if isinstance(value, list):  # of draft 7
        fields.each(value, _schema)
    else:
        _schema(value)


def _type(value: Any) -> None:
    if isinstance(value, list) and value:
        fields.each(value, _one_type)
    else:
        _one_type(value)


def _one_type(value: Any) -> None:
    if value not in _TYPES:
        fields.refuse(f"Input should be one of {', '.join(_TYPES)}")


def _required(value: Any) -> None:
    fields.each(fields.sequence(value), fields.string)


def _enum(value: Any) -> None:
    if not fields.sequence(value):
        fields.refuse("List should have at least 1 item")


def _size(value: Any) -> None:
    if fields.integer(value, low=0) is None:
        fields.refuse("Input should be a valid integer")


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        fields.refuse("Input should be a valid number")


_KEYWORDS: Final[dict[str, Callable[[Any], Any]]] = {
    "type": _type,
    "enum": _enum,
    "required": _required,
    "items": _items,
    "pattern": fields.string,
    "$ref": fields.string,
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"), _named),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _listed),
    **dict.fromkeys(("additionalProperties", "contains", "propertyNames", "not", "if", "then", "else"), _schema),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), _schema),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _size),
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), _number),
}


def _refs(value: Any, root: Mapping[str, Any]) -> None:
    """Every reference within the document leads somewhere. (What looks like one inside `enum`, `const`, `default` or
    `examples` is a value.)"""
    if isinstance(value, list):
        fields.each(value, lambda item: _refs(item, root))
    elif isinstance(value, dict):
        ref = value.get("$ref")
        if isinstance(ref, str) and ref.startswith("#/") and _resolved(ref, root) is _NOWHERE:
            fields.refuse(f"{ref[:100]!r} leads nowhere", "$ref")
        for key, inner in value.items():
            if key not in ("enum", "const", "default", "examples"):
                with fields.within(key):
                    _refs(inner, root)


def _resolved(ref: str, root: Any) -> Any:
    """What a JSON pointer (RFC 6901) leads to."""
    found = root
    for step in ref[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            return _NOWHERE
    return found
