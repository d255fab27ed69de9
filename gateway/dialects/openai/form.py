"""The form that an answer must have: the API's `response_format`, and what clients of other servers send for it.

Sources: the documentation of vLLM (`guided_*`, `structured_outputs`), SGLang (`regex`, `ebnf`) and llama.cpp's server
(`grammar`, `json_schema`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.dialects import fields
from gateway.dialects.openai.json_schema import check_schema

_MOST_CHARS: Final = 64 * 1024
_MOST_CHOICES: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """At most one of them: JSON that fits a schema, text that a regular expression matches, text of a grammar (Lark's
    or llama.cpp's GBNF)."""

    schema: dict[str, Any] | None = None
    pattern: str = ""
    grammar: str = ""

    @property
    def is_free(self) -> bool:
        return self == Form()


def parse_form(body: Mapping[str, Any]) -> Form:
    """Raises `FieldError`, also where several forms are asked for."""
    found: dict[str, Form] = {}
    for name, read in _READERS.items():
        if body.get(name) is not None:
            with fields.within(name):
                form = read(body[name])
            if not form.is_free:
                found[name] = form
    if len(found) > 1:
        fields.refuse(f"an answer has one form only, not that of {' and '.join(found)}", list(found)[-1])
    return next(iter(found.values()), Form())


def _response_format(value: Any) -> Form:
    wanted = fields.mapping(value)
    match fields.string(wanted.get("type"), "type"):
        case "text":
            return Form()
        case "json_object" | "json_schema" if wanted.get("schema") is not None:
            # As other local servers and vendors spell it.
            with fields.within("schema"):
                return _checked(fields.mapping(wanted["schema"]))
        case "json_object":
            return Form(schema={})
        case "json_schema":
            with fields.within("json_schema"):
                outer = fields.mapping(wanted.get("json_schema"))
                with fields.within("schema"):
                    return _checked(fields.optional_mapping(outer.get("schema")))
        case "grammar":
            with fields.within("grammar"):
                return _grammar(wanted.get("grammar"))
    fields.refuse("Input should be 'text', 'json_object' or 'json_schema'", "type")


def _checked(schema: Mapping[str, Any]) -> Form:
    return Form(schema=check_schema(schema))


def _schema(value: Any) -> Form:
    """An object, or its text."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            fields.refuse(f"the schema is not valid JSON: {error}")
    return _checked(fields.mapping(value))


def _json_object(value: Any) -> Form:
    return Form(schema={}) if fields.boolean(value) else Form()


def _choice(value: Any) -> Form:
    choices = fields.sequence(value)
    if not 0 < len(choices) <= _MOST_CHOICES:
        fields.refuse(f"List should have 1 to {_MOST_CHOICES} items")
    texts = fields.each(choices, fields.name)
    return Form(grammar=f"start: {' | '.join(fields.json_text(text) for text in texts)}\n")


def _pattern(value: Any) -> Form:
    return Form(pattern=_bounded(value))


def _grammar(value: Any) -> Form:
    return Form(grammar=_bounded(value))


def _bounded(value: Any) -> str:
    text = fields.name(value)
    if len(text) > _MOST_CHARS:
        fields.refuse(f"String should have at most {_MOST_CHARS} characters")
    return text


def _structured(value: Any) -> Form:
    wanted = fields.mapping(value)
    given = {name: wanted[name] for name in _STRUCTURED if wanted.get(name) is not None}
    if len(given) > 1:
        fields.refuse(f"an answer has one form only, not that of {' and '.join(given)}")
    for name, inner in given.items():
        with fields.within(name):
            return _STRUCTURED[name](inner)
    return Form()


_STRUCTURED: Final[dict[str, Callable[[Any], Form]]] = {
    "json": _schema,
    "json_object": _json_object,
    "regex": _pattern,
    "choice": _choice,
    "grammar": _grammar,
}

_READERS: Final[dict[str, Callable[[Any], Form]]] = {
    "response_format": _response_format,
    "structured_outputs": _structured,
    "guided_json": _schema,
    "guided_json_object": _json_object,
    "guided_regex": _pattern,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "json_schema": _schema,
    "grammar": _grammar,
    "regex": _pattern,
    "ebnf": _grammar,
}
