"""Who answers by what a request is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from gateway.dialects.registry import DIALECTS, VENDOR_NAMES
from gateway.intake.reading import Asked, read_request
from gateway.models.rules import Traits, parse_rules, traits_of
from shared.errors import ConfigError

PLAIN = Traits(name="claude-opus-4-5", priority="interactive", has_tools=True, has_images=False, prompt_bytes=1000)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
TOOL = {"name": "t", "input_schema": {"type": "object"}}


def fits(rule: dict[str, Any], **traits: Any) -> bool:
    (parsed,) = parse_rules({"rules": [{"model": "m", **rule}]})
    return parsed.fits(replace(PLAIN, **traits), VENDOR_NAMES)


@pytest.mark.parametrize(
    ("rule", "traits"),
    [
        ({"classes": ["side", "subagent"]}, {"priority": "side"}),
        ({"classes": ["side", "subagent"]}, {"priority": "subagent"}),
        ({"tools": False}, {"has_tools": False}),
        ({"images": True}, {"has_images": True}),
        ({"least_prompt_bytes": 1001}, {"prompt_bytes": 1001}),
        ({"most_prompt_bytes": 999}, {"prompt_bytes": 999}),
        ({"most_prompt_bytes": 0}, {"prompt_bytes": 0}),
        ({"images": True, "asked": ["haiku"]}, {"has_images": True, "name": "claude-haiku-4"}),
        ({"images": True, "asked": ["Haiku"]}, {"has_images": True, "name": "claude-haiku-4"}),
        ({"images": True, "asked": ["qwen"]}, {"has_images": True, "name": "qwen"}),
    ],
)
def test_a_rule_fits_what_it_says_and_nothing_else(rule: dict[str, Any], traits: dict[str, Any]) -> None:
    assert fits(rule, **traits)
    assert not fits(rule)
    for name, value in traits.items():
        assert fits(rule, **{**traits, name: getattr(PLAIN, name)}) == (getattr(PLAIN, name) == value)


def test_who_asks_for_a_model_by_its_name_gets_it_unless_a_rule_is_for_that_name() -> None:
    assert fits({"tools": True}, name="claude-sonnet-5")
    assert fits({"tools": True}, name="opus")
    assert not fits({"tools": True}, name="qwen")
    assert not fits({"tools": True, "asked": ["opus"]}, name="qwen")


def test_what_a_request_is_is_found_in_its_body() -> None:
    def traits(headers: Mapping[str, str] = MappingProxyType({}), /, **body: Any) -> Traits:
        whole = {"model": "opus", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}], **body}
        asked = Asked(headers=headers, request_id="r")
        return traits_of(read_request(DIALECTS["anthropic"], asked, orjson.dumps(whole), packing=True).request)

    plain = traits()
    assert (plain.priority, plain.has_tools, plain.has_images) == ("interactive", False, False)
    assert 5 <= plain.prompt_bytes < 200
    assert traits({"x-claude-code-agent-id": "a"}).priority == "subagent"
    schema = {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
    assert traits(tools=[], **schema).priority == "side"
    assert traits(tools=[TOOL]).has_tools
    assert traits(messages=[{"role": "user", "content": [IMAGE]}]).has_images
    result = {"type": "tool_result", "tool_use_id": "c", "content": [IMAGE]}
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "t", "input": {}}]}
    turns = [{"role": "user", "content": "look"}, called, {"role": "user", "content": [result]}]
    assert traits(messages=turns, tools=[TOOL]).has_images
    assert traits(messages=[{"role": "user", "content": "x" * 5000}]).prompt_bytes > 5000


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, 'expected "rules"'),
        (["small"], "rule 1 needs a `model`"),
        ([{"classes": ["side"]}], "rule 1 needs a `model`"),
        ([{"tools": True, "model": ""}], "rule 1"),
        ([{"tools": "yes", "model": "m"}], "tools"),
        ([{"image": True, "model": "m"}], "did you mean images"),
        ([{"classes": ["sides"], "model": "m"}], "no class 'sides'"),
        ([{"tools": True, "model": "m"}, {"least_prompt_bytes": -1, "model": "m"}], "rule 2"),
        ([{"asked": ["opus"], "model": "m"}], "says nothing of the request"),
        ([{"classes": [], "model": "m"}], "says nothing of the request"),
        ([{"least_prompt_bytes": 0, "model": "m"}], "says nothing of the request"),
        ([{"least_prompt_bytes": 9, "most_prompt_bytes": 8, "model": "m"}], "rule 1 fits nothing"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rules: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_rules({"rules": rules})


def test_there_may_be_none() -> None:
    assert parse_rules({}) == parse_rules([]) == parse_rules({"rules": []}) == ()
