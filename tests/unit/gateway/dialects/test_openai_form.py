"""The form of an answer, however a client asks for it, and schemas that are none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from gateway.dialects.fields import FieldError
from gateway.dialects.openai.form import Form, parse_form
from gateway.dialects.openai.json_schema import check_schema
from gateway.dialects.registry import DIALECTS
from shared.errors import InvalidRequestError
from tests.unit.gateway.dialects.answers import json_values

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CHOICE = Form(grammar='start: "yes" | "no \\"way\\""\n')


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ({}, Form()),
        ({"response_format": {"type": "text"}}, Form()),
        ({"response_format": {"type": "json_object"}}, Form(schema={})),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            Form(schema=SCHEMA),
        ),
        ({"response_format": {"type": "grammar", "grammar": "start: /a/"}}, Form(grammar="start: /a/")),
        ({"guided_json": SCHEMA}, Form(schema=SCHEMA)),
        ({"guided_json": '{"type": "object"}'}, Form(schema={"type": "object"})),
        ({"guided_json_object": True}, Form(schema={})),
        ({"guided_json_object": False}, Form()),
        ({"guided_regex": "[a-z]+"}, Form(pattern="[a-z]+")),
        ({"guided_choice": ["yes", 'no "way"']}, CHOICE),
        ({"guided_grammar": "start: /a/"}, Form(grammar="start: /a/")),
        ({"structured_outputs": {"json": SCHEMA}}, Form(schema=SCHEMA)),
        ({"structured_outputs": {"regex": "a+"}}, Form(pattern="a+")),
        ({"structured_outputs": {"choice": ["yes", 'no "way"']}}, CHOICE),
        ({"structured_outputs": {"grammar": "start: /a/"}}, Form(grammar="start: /a/")),
        ({"structured_outputs": {"json_object": True}}, Form(schema={})),
        ({"structured_outputs": {}}, Form()),
        ({"json_schema": SCHEMA}, Form(schema=SCHEMA)),
        ({"grammar": 'root ::= "a"'}, Form(grammar='root ::= "a"')),
        ({"regex": "a+"}, Form(pattern="a+")),
        ({"ebnf": 'root ::= "a"'}, Form(grammar='root ::= "a"')),
        ({"guided_json": None, "regex": None, "guided_regex": "a"}, Form(pattern="a")),
    ],
)
def test_every_way_to_ask_for_a_form(body: dict[str, Any], form: Form) -> None:
    assert parse_form(body) == form


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_completions"])
def test_the_form_reaches_the_request(dialect: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    parse = DIALECTS[dialect].parse_request
    assert parse({**body, "guided_regex": "a"}, {}, request_id="r").request.response_pattern == "a"
    assert parse({**body, "grammar": "start: /a/"}, {}, request_id="r").request.response_grammar == "start: /a/"
    assert parse({**body, "guided_json": SCHEMA}, {}, request_id="r").request.response_schema == SCHEMA


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"guided_regex": "a", "guided_choice": ["b"]}, ("guided_choice",)),
        ({"response_format": {"type": "json_object"}, "grammar": "start: /a/"}, ("grammar",)),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, ("structured_outputs",)),
        ({"guided_choice": []}, ("guided_choice",)),
        ({"guided_choice": ["a", 5]}, ("guided_choice", 1)),
        ({"guided_json": "{"}, ("guided_json",)),
        ({"guided_json": '["a"]'}, ("guided_json",)),
        ({"guided_regex": ""}, ("guided_regex",)),
        ({"grammar": "x" * 70_000}, ("grammar",)),
        ({"guided_json": {"properties": {"a": {"type": "int"}}}}, ("guided_json", "properties", "a", "type")),
    ],
)
def test_what_is_no_form_is_refused_with_its_place(body: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(FieldError) as caught:
        parse_form(body)
    assert caught.value.path == path


MALFORMED: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"type": "strin"}, ("type",)),
    ({"type": []}, ("type",)),
    ({"type": ["string", "nul"]}, ("type", 1)),
    ({"properties": []}, ("properties",)),
    ({"properties": {"a": "string"}}, ("properties", "a")),
    ({"properties": {"a": {"items": 5}}}, ("properties", "a", "items")),
    ({"required": "a"}, ("required",)),
    ({"required": [1]}, ("required", 0)),
    ({"enum": "a"}, ("enum",)),
    ({"anyOf": []}, ("anyOf",)),
    ({"anyOf": [{"type": 1}]}, ("anyOf", 0, "type")),
    ({"additionalProperties": "no"}, ("additionalProperties",)),
    ({"minLength": -1}, ("minLength",)),
    ({"maxItems": "3"}, ("maxItems",)),
    ({"minimum": "3"}, ("minimum",)),
    ({"pattern": 3}, ("pattern",)),
    ({"$defs": {"a": []}}, ("$defs", "a")),
]


@pytest.mark.parametrize(("schema", "path"), MALFORMED)
def test_a_malformed_schema_is_refused_with_its_place(schema: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(SchemaError):
        Draft202012Validator.check_schema(schema)
    with pytest.raises(FieldError) as caught:
        check_schema(schema)
    assert caught.value.path == path


@pytest.mark.parametrize("ref", ["#/$defs/b", "#/properties/a/items"])
def test_a_reference_that_leads_nowhere_is_refused(ref: str) -> None:
    schema = {"properties": {"a": {"anyOf": [{"$ref": ref}]}}, "$defs": {"a": {}}}
    with pytest.raises(FieldError, match="leads nowhere") as caught:
        check_schema(schema)
    assert caught.value.path == ("properties", "a", "anyOf", 0, "$ref")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        SCHEMA,
        {"type": ["string", "null"], "description": None, "x-own": [1]},
        {"properties": {"type": {"type": "string"}, "$ref": {"type": "string"}, "enum": True}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"items": [{"type": "null"}, False]}}},
        {"$ref": "#"},
        {"$ref": "other.json#/$defs/a"},
        {"enum": [{"$ref": "#/nowhere"}], "const": {"type": "nonsense"}},
        {"anyOf": [{"$ref": "#/anyOf/1"}, {"type": "integer", "minimum": 1.5}]},
    ],
)
def test_a_schema_is_taken_as_it_is(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == schema


@settings(deadline=None)
@given(value=json_values)
def test_whatever_stands_in_a_schema_is_taken_or_refused(value: Any) -> None:
    for keyword in ("type", "properties", "items", "anyOf", "required", "enum", "$ref", "minLength", "minimum"):
        try:
            check_schema({keyword: value})
        except FieldError as error:
            assert error.path[0] == keyword  # noqa: PT017


@pytest.mark.parametrize(
    ("dialect", "body", "param"),
    [
        (
            "openai_chat",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "x"}}}},
            "response_format.json_schema.schema.type",
        ),
        (
            "openai_responses",
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"anyOf": [{"type": "x"}]}}}},
            "text.format.schema.anyOf[0].type",
        ),
        ("openai_completions", {"guided_json": {"items": 1}}, "guided_json.items"),
    ],
)
def test_clients_are_told_where_their_schema_is_wrong(dialect: str, body: dict[str, Any], param: str) -> None:
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi"} | body
    whole |= {"prompt": "hi"} if dialect == "openai_completions" else {}
    with pytest.raises(InvalidRequestError) as caught:
        DIALECTS[dialect].parse_request(whole, {}, request_id="r")
    assert caught.value.details["param"] == param
