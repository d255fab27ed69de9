"""Whatever JSON a client sends, it is a request that can travel to a worker, or an `InvalidRequestError`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.canonical import canonicalise
from gateway.dialects.registry import DIALECTS
from shared import wire
from shared.errors import InvalidRequestError

# With lone surrogates, NaN, infinities and integers of any size: what Python's own JSON reader may yield.
wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(min_value=2**60) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "role", "content", "id", "name", "x", "\ud800"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)

ANTHROPIC_BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 10,
    "system": [{"type": "text", "text": "x-anthropic-billing-header: v"}, {"type": "text", "text": "You are"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "system", "content": "environment"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a"}},
                {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "is_error": False,
                    "content": [
                        {"type": "text", "text": "found"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                        {"type": "document", "source": {"type": "content", "content": "text"}},
                        {"type": "tool_reference", "tool_name": "WebFetch"},
                    ],
                }
            ],
        },
    ],
    "tools": [
        {"name": "Read", "input_schema": {"type": "object"}, "description": "d", "defer_loading": False},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    "tool_choice": {"type": "tool", "name": "Read", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {}}},
    "stop_sequences": ["END"],
    "temperature": 0.5,
    "logit_bias": {"5": 1},
    "stream": True,
}

OPENAI_BODY: dict[str, Any] = {
    "model": "m",
    "max_completion_tokens": 10,
    "messages": [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "f.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            "function_call": {"name": "g", "arguments": "{}"},
        },
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        {"role": "function", "name": "g", "content": "ok"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
    },
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
    "stop": ["END"],
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"5": 1},
    "seed": 7,
    "stream": True,
    "stream_options": {"include_usage": True},
    "chat_template_kwargs": {"enable_thinking": True},
    "reasoning_effort": "low",
    "n": 1,
}

RESPONSES_BODY: dict[str, Any] = {
    "model": "m",
    "max_output_tokens": 10,
    "instructions": "be brief",
    "input": [
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "custom", "name": "exec"}]},
        {"role": "developer", "content": "and kind"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "hi"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "f.pdf"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": None},
        {"type": "function_call", "call_id": "c1", "name": "add", "namespace": "notes", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"},
        {"type": "tool_search_call", "call_id": "c3", "execution": "client", "arguments": {"query": "q"}},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "ok"}]},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "ok"},
        {"type": "tool_search_output", "call_id": "c3", "tools": [{"type": "function", "name": "found"}]},
        {"type": "compaction", "encrypted_content": "mlxgw1.aGk="},
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "compaction_trigger"},
    ],
    "tools": [
        {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True},
        {"type": "namespace", "name": "notes", "description": "d", "tools": [{"type": "function", "name": "add"}]},
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
        {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}},
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "top_logprobs": 3,
    "store": False,
    "prompt_cache_key": "k",
}

COMPLETIONS_BODY: dict[str, Any] = {
    "model": "m",
    "prompt": ["one", [1, 2], "two"],
    "max_tokens": 10,
    "stop": ["END"],
    "n": 2,
    "best_of": 3,
    "logprobs": 3,
    "logit_bias": {"5": 1},
    "seed": 7,
    "stream": False,
    "temperature": 0.5,
}

BODIES = {
    "anthropic": ANTHROPIC_BODY,
    "openai_chat": OPENAI_BODY,
    "openai_completions": COMPLETIONS_BODY,
    "openai_responses": RESPONSES_BODY,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def parse_or_refuse(name: str, body: Any) -> None:
    try:
        parsed = DIALECTS[name].parse_request(body, {}, request_id="r")
    except InvalidRequestError as error:
        refusal = error.message.encode()
        parsed = None
    if parsed is None:
        assert refusal
        return
    canonical = canonicalise(parsed.request)
    assert wire.decode(wire.encode(canonical)) == canonical


@pytest.mark.parametrize("name", sorted(BODIES))
def test_the_bodies_that_the_other_tests_break_are_good(name: str) -> None:
    DIALECTS[name].parse_request(BODIES[name], {}, request_id="r")


@pytest.mark.parametrize("name", sorted(BODIES))
@given(body=wild)
def test_any_json_is_parsed_or_refused(name: str, body: Any) -> None:
    parse_or_refuse(name, body)


@pytest.mark.parametrize("name", sorted(BODIES))
@settings(max_examples=300)
@given(data=st.data())
def test_a_good_body_with_anything_anywhere_is_parsed_or_refused(name: str, data: st.DataObject) -> None:
    body = copy.deepcopy(BODIES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(body)))
        target: Any = body
        for key in path[:-1]:
            target = target[key]
        if data.draw(st.booleans()):
            target[path[-1]] = data.draw(wild)
        else:
            del target[path[-1]]
        if not body:
            break
    parse_or_refuse(name, body)


@pytest.mark.parametrize("name", sorted(BODIES))
@pytest.mark.parametrize("depth", [100, 300, 3000, 100_000])
def test_deep_nesting_is_parsed_or_refused(name: str, depth: int) -> None:
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    parse_or_refuse(name, {**BODIES[name], "metadata": nested})
    deep_schema: Any = {}
    for _ in range(depth):
        deep_schema = {"properties": deep_schema}
    tool = {
        "name": "t",
        "input_schema": deep_schema,
        "type": "function",
        "function": {"name": "t", "parameters": deep_schema},
    }
    if name == "anthropic":
        tool["type"] = "custom"
    parse_or_refuse(name, {**BODIES[name], "tools": [tool], "tool_choice": None})


@pytest.mark.parametrize("name", sorted(BODIES))
@pytest.mark.parametrize("value", [2**63, 2**64, -(2**64), 10**400, float("nan"), float("inf"), True, "5", [], {}])
@pytest.mark.parametrize("field", ["max_tokens", "temperature", "top_p", "top_k", "seed", "min_p", "presence_penalty"])
def test_numbers_of_any_size_are_parsed_or_refused(name: str, field: str, value: Any) -> None:
    parse_or_refuse(name, {**BODIES[name], field: value})


@pytest.mark.parametrize(
    "arguments",
    ['{"a": 1' * 5000, "[" * 100_000, '{"a": "\\ud800"}', '{"a": NaN}', '{"a": ' + "9" * 5000 + "}", "", "null"],
)
def test_arguments_text_of_any_kind_is_kept(arguments: str) -> None:
    body = copy.deepcopy(OPENAI_BODY)
    body["messages"][2]["tool_calls"][0]["function"]["arguments"] = arguments
    parse_or_refuse("openai_chat", body)
