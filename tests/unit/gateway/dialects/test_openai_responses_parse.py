"""What clients of the Responses API send, and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.canonical import canonicalise
from gateway.dialects.base import Parsed
from gateway.dialects.openai_responses.opaque import wrap
from gateway.dialects.openai_responses.render import ResponsesReply
from gateway.dialects.openai_responses.tools import Origin
from gateway.dialects.registry import DIALECTS
from shared.errors import InvalidRequestError, UnsupportedContentError
from shared.messages import (
    DocumentPart,
    ImagePart,
    Message,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolReferencePart,
    ToolResultPart,
)
from shared.request import ReasoningOptions, ToolChoice

USER = {"role": "user", "content": "hi"}
HI = Message(role="user", parts=(TextPart(text="hi"),))
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
ADD_NOTE = {"type": "function", "name": "add_note", "description": "Adds.", "parameters": {"type": "object"}}
NOTES = {"type": "namespace", "name": "mcp__demo", "description": "Notes of a person.", "tools": [ADD_NOTE]}
SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds.", "parameters": {"type": "object"}}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: LINE"},
}


def parse(headers: dict[str, str] | None = None, **body: Any) -> Parsed:
    full = {"model": "m", "input": [USER]} | body
    given = {key: value for key, value in full.items() if value is not ...}
    return DIALECTS["openai_responses"].parse_request(given, headers or {}, request_id="r1")


def messages(*items: Any, **body: Any) -> tuple[Message, ...]:
    return parse(input=list(items), **body).request.messages


def canonical(*items: Any, **body: Any) -> tuple[Message, ...]:
    return canonicalise(parse(input=list(items), **body).request).messages


def reply(parsed: Parsed) -> ResponsesReply:
    assert isinstance(parsed.reply, ResponsesReply)
    return parsed.reply


def test_a_minimal_request() -> None:
    parsed = parse(input="hi")
    assert parsed.request.messages == (HI,)
    assert parsed.request.sampling.max_tokens is None, "the rest of the window"
    assert not parsed.stream
    assert parsed.warnings == ()


def test_null_is_the_same_as_absent() -> None:
    names = (
        "instructions max_output_tokens stream tools tool_choice parallel_tool_calls stop text reasoning include store "
        "temperature top_p top_k min_p seed logit_bias top_logprobs prompt_cache_key metadata user service_tier "
        "previous_response_id conversation prompt truncation background"
    )
    assert parse(**dict.fromkeys(names.split())) == parse()


def test_without_a_limit_an_answer_may_take_the_rest_of_the_window() -> None:
    assert parse(max_output_tokens=None).request.sampling.max_tokens is None
    assert parse(max_output_tokens=7).request.sampling.max_tokens == 7


def test_items_of_loose_shapes_are_read() -> None:
    """Without `type` and `id`; texts as strings, parts and bare strings; outputs as texts, lists and anything else."""
    assert messages("hi", {"role": "user", "content": ["a", {"type": "text", "text": "b"}]}) == (
        HI,
        Message(role="user", parts=(TextPart(text="a"), TextPart(text="b"))),
    )
    for output, text in (("ok", "ok"), ([{"type": "input_text", "text": "ok"}], "ok"), ({"a": 1}, '{"a":1}')):
        *_, result = messages(USER, {**CALL, "type": None}, {"call_id": "c1", "output": output})
        assert result == Message(role="tool", parts=(ToolResultPart(call_id="c1", parts=(TextPart(text=text),)),))
    *_, empty = messages(USER, CALL, {"type": "function_call_output", "call_id": "c1", "output": None})
    assert empty.parts == (ToolResultPart(call_id="c1"),)
    call = messages(USER, {**CALL, "arguments": {"a": 1}})[-1]
    assert call.parts == (ToolCallPart(id="c1", name="f", arguments='{"a": 1}'),)


def test_instructions_and_developer_messages_head_the_prompt_and_later_ones_stand_in_their_place() -> None:
    head, user, answer, later = canonical(
        {"role": "developer", "content": [{"type": "input_text", "text": "two"}]},
        USER,
        {"role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
        {"role": "developer", "content": "stop"},
        instructions="one",
    )
    assert head == Message(role="system", parts=(TextPart(text="one\ntwo"),))
    assert (user.role, answer.role, later.role) == ("user", "assistant", "user")
    assert later.parts == (TextPart(text="<system-reminder>\nstop\n</system-reminder>"),)


def test_images_and_files_are_read_wherever_they_stand() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    file = {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "f.pdf"}
    parts = (
        ImagePart(media_type="image/png", data="AAAA"),
        DocumentPart(media_type="application/pdf", data="AAAA", title="f.pdf"),
    )
    assert messages({"role": "user", "content": [image, file]})[0].parts == parts
    *_, result = messages(USER, CALL, {"type": "function_call_output", "call_id": "c1", "output": [image, file]})
    assert result.parts == (ToolResultPart(call_id="c1", parts=parts),)


@pytest.mark.parametrize(
    "item",
    [
        {"summary": [], "encrypted_content": wrap("  hm\n")},
        {"summary": [{"type": "summary_text", "text": "short"}], "encrypted_content": wrap("  hm\n")},
        {"summary": [], "content": [{"type": "reasoning_text", "text": "  hm\n"}], "encrypted_content": None},
        {"summary": [{"type": "summary_text", "text": "  hm\n"}], "encrypted_content": "of another server"},
    ],
)
def test_reasoning_comes_back_as_it_was_generated(item: dict[str, Any]) -> None:
    said = messages(USER, {"type": "reasoning", **item}, {"role": "assistant", "content": "yes"})
    assert said[1].parts == (ReasoningPart(text="  hm\n"),)


def test_reasoning_without_any_text_is_nothing() -> None:
    assert messages(USER, {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None}) == (HI,)


def test_a_result_whose_call_is_gone_is_text() -> None:
    *_, result = messages(USER, {"type": "function_call_output", "call_id": "c9", "output": "ok"})
    assert result.role == "user"


def test_tools_of_a_namespace_have_one_name_for_the_model_and_two_for_the_client() -> None:
    parsed = parse(tools=[NOTES, {"type": "function", "name": "plain"}])
    first, plain = parsed.request.tools
    assert first.name == "mcp__demo__add_note"
    assert first.description == "Notes of a person.\n\nAdds."
    assert plain.name == "plain"
    assert reply(parsed).origins["mcp__demo__add_note"] == Origin(name="add_note", namespace="mcp__demo")
    call = {"type": "function_call", "call_id": "c", "name": "add_note", "namespace": "mcp__demo", "arguments": "{}"}
    assert messages(USER, call, tools=[NOTES])[-1].parts[0].name == "mcp__demo__add_note"  # type: ignore[union-attr]
    assert messages(USER, call)[-1].parts[0].name == "mcp__demo__add_note"  # type: ignore[union-attr]


def test_names_that_would_be_the_same_for_the_model_are_told_apart() -> None:
    parsed = parse(tools=[{"type": "function", "name": "mcp__demo__add_note"}, NOTES])
    names = [tool.name for tool in parsed.request.tools]
    assert len(set(names)) == 2
    assert [reply(parsed).origins[name].namespace for name in names] == ["", "mcp__demo"]


def test_a_tool_that_takes_free_text_is_a_function_of_one_string() -> None:
    parsed = parse(tools=[PATCH])
    (tool,) = parsed.request.tools
    assert tool.parameters["required"] == ["input"]
    assert "start: LINE" in tool.description
    assert reply(parsed).origins["apply_patch"] == Origin(kind="custom", name="apply_patch")
    assert parsed.warnings == ("shown to the model and not enforced: the grammar of: apply_patch",)
    call = {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": 'a "b"\n'}
    *_, said, result = messages(USER, call, {"type": "custom_tool_call_output", "call_id": "c", "output": "done"})
    (part,) = said.parts
    assert isinstance(part, ToolCallPart)
    assert json.loads(part.arguments) == {"input": 'a "b"\n'}
    assert result.role == "tool"


def test_a_regular_expression_is_enforced_as_the_pattern_of_the_text() -> None:
    grammar = {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}
    parsed = parse(tools=[{"type": "custom", "name": "word", "format": grammar}])
    (tool,) = parsed.request.tools
    assert tool.strict
    assert tool.parameters["properties"]["input"]["pattern"] == "^(?:[a-z]+)$"
    assert parsed.warnings == ()


FOUND = [{**NOTES, "tools": [{**ADD_NOTE, "defer_loading": True}]}]
SEARCHED = [
    USER,
    {"type": "tool_search_call", "call_id": "s1", "execution": "client", "arguments": {"query": "notes"}},
    {"type": "tool_search_output", "call_id": "s1", "execution": "client", "tools": FOUND},
]


def test_tools_that_the_clients_search_found_are_shown_where_they_were_found_and_can_be_called() -> None:
    before, after = parse(tools=[SEARCH]), parse(tools=[SEARCH], input=SEARCHED)
    assert [tool for tool in after.request.tools if not tool.deferred] == list(before.request.tools)
    assert [tool.name for tool in after.request.tools if tool.deferred] == ["mcp__demo__add_note"]
    _, call, result = after.request.messages
    assert call.parts == (ToolCallPart(id="s1", name="tool_search", arguments='{"query": "notes"}'),)
    assert result.parts == (ToolResultPart(call_id="s1", parts=(ToolReferencePart(tool_name="mcp__demo__add_note"),)),)
    assert reply(after).origins["tool_search"].kind == "tool_search"
    again = [*SEARCHED, {**SEARCHED[1], "call_id": "s2"}, {**SEARCHED[2], "call_id": "s2"}]
    assert len(parse(tools=[SEARCH], input=again).request.tools) == 2
    nothing = [*SEARCHED[:2], {"type": "tool_search_output", "call_id": "s1", "tools": []}]
    assert parse(tools=[SEARCH], input=nothing).request.messages[-1].parts == (
        ToolResultPart(call_id="s1", parts=(TextPart(text="No tools were found."),)),
    )


def test_where_the_vendor_would_search_for_tools_all_are_shown() -> None:
    deferred = {**ADD_NOTE, "defer_loading": True}
    assert parse(tools=[deferred]).request.tools[0].deferred
    parsed = parse(tools=[deferred, {"type": "tool_search"}])
    assert [tool.deferred for tool in parsed.request.tools] == [False]
    assert parsed.warnings == ()


def test_tools_in_the_conversation_belong_to_its_head_or_join_where_they_stand() -> None:
    def extra(name: str) -> dict[str, Any]:
        tools = [{"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": name}]}]
        return {"type": "additional_tools", "role": "developer", "tools": tools}

    parsed = parse(input=[extra("exec"), {"role": "developer", "content": "d"}, USER, extra("late")])
    exec_, late = parsed.request.tools
    assert (exec_.name, exec_.deferred) == ("functions__exec", False)
    assert (late.name, late.deferred) == ("functions__late", True)
    assert parsed.request.messages[-1].parts == (ToolReferencePart(tool_name="functions__late"),)
    assert reply(parsed).origins["functions__exec"] == Origin(kind="custom", name="exec", namespace="functions")


def test_what_nobody_here_can_run_and_what_nobody_here_knows_is_left_out_and_named() -> None:
    parsed = parse(
        tools=[ADD_NOTE, {"type": "web_search"}, {"type": "mcp", "server_label": "x"}, {"type": "of_next_year"}],
        input=[
            USER,
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "of_next_year", "id": "x"},
            {"role": "user", "content": [{"type": "of_next_year"}, {"type": "input_text", "text": "go"}]},
            {"type": "compaction", "encrypted_content": "of another server"},
            {"type": "item_reference", "id": "msg_1"},
        ],
    )
    assert [tool.name for tool in parsed.request.tools] == ["add_note"]
    assert parsed.request.messages == (HI, Message(role="user", parts=(TextPart(text="go"),)))
    assert parsed.warnings == (
        "not available here: web_search, mcp, of_next_year",
        "left out: web_search_call, of_next_year, compaction of another server, item_reference",
    )


def test_choices_of_tools() -> None:
    tools = [ADD_NOTE, NOTES, PATCH, {"type": "web_search"}]

    def choice(value: Any, **more: Any) -> ToolChoice:
        return parse(tools=tools, tool_choice=value, **more).request.tool_choice

    assert choice("auto") == ToolChoice()
    assert choice("none") == ToolChoice(mode="none")
    assert choice("required", parallel_tool_calls=False) == ToolChoice(mode="any", parallel=False)
    assert choice({"type": "function", "name": "add_note"}).name == "add_note"
    assert choice({"type": "function", "name": "add_note", "namespace": "mcp__demo"}).name == "mcp__demo__add_note"
    assert choice({"type": "custom", "name": "apply_patch"}).name == "apply_patch"
    assert choice({"type": "web_search"}) == ToolChoice()
    with pytest.raises(InvalidRequestError, match="nothing"):
        choice({"type": "function", "name": "nothing"})
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "apply_patch"}]}
    parsed = parse(tools=tools, tool_choice=allowed)
    assert [tool.name for tool in parsed.request.tools] == ["apply_patch"]
    assert parsed.request.tool_choice.mode == "any"


def test_forms_of_the_answer() -> None:
    def schema(**wanted: Any) -> Any:
        return parse(text={"format": wanted}).request.response_schema

    assert schema(type="text") is None
    assert schema(type="json_object") == {}
    assert schema(type="json_schema", name="n", schema={"type": "object"}, strict=True) == {"type": "object"}
    with pytest.raises(InvalidRequestError, match=r"text\.format\.type"):
        schema(type="poem")


def test_reasoning_and_effort() -> None:
    assert parse(reasoning={"effort": "high"}).request.reasoning == ReasoningOptions(effort="high")
    assert parse(reasoning={"effort": "none"}).request.reasoning == ReasoningOptions(enabled=False)
    with pytest.raises(InvalidRequestError, match=r"'bogus'.*'none', 'minimal'"):
        parse(reasoning={"effort": "bogus"})
    assert parse(reasoning={"max_tokens": 99}).request.reasoning.budget_tokens == 99
    assert reply(parse(reasoning={"summary": "auto"})).shows_summary
    assert not reply(parse(reasoning={"effort": "low"})).shows_summary


@pytest.mark.parametrize(
    ("body", "wraps"),
    [({}, False), ({"store": False}, True), ({"include": ["reasoning.encrypted_content"]}, True)],
)
def test_reasoning_is_wrapped_for_who_sends_it_back(body: dict[str, Any], wraps: bool) -> None:
    assert reply(parse(**body)).wraps_reasoning is wraps


def test_the_session_is_the_first_name_that_a_client_gives() -> None:
    order = ("session-id", "thread-id", "session_id", "x-session-id", "x-session-affinity")
    for index, _ in enumerate(order):
        headers = {name: name for name in order[index:]} | {"x-client-request-id": "same"}
        assert parse(headers, prompt_cache_key="key").request.session == order[index]
    keyed = parse({"x-client-request-id": "same"}, prompt_cache_key="key", user="somebody").request
    assert (keyed.session, keyed.cache_key, keyed.user) == ("", "key", "somebody"), "many may share a key"
    assert parse({"x-client-request-id": "same"}).request.session == ""


def test_titles_and_summaries_of_an_agent_yield_to_its_conversation() -> None:
    agent = {"session-id": "s"}
    assert parse(agent, tools=[ADD_NOTE]).request.priority == "interactive"
    assert parse(agent).request.priority == parse(agent, tools=[]).request.priority == "side"
    assert parse().request.priority == "interactive"
    subagent = agent | {"x-openai-subagent": "collab_spawn"}
    assert parse(subagent, tools=[ADD_NOTE]).request.priority == "subagent"
    assert parse(agent | {"x-openai-subagent": "compact"}, tools=[ADD_NOTE]).request.priority == "side"
    assert parse(service_tier="flex").request.priority == "batch"
    assert parse({"x-mlx-gateway-priority": "side"}, tools=[ADD_NOTE]).request.priority == "side"


def test_a_resend_of_an_agent_may_join_the_request_under_way() -> None:
    assert parse({"session-id": "s"}).is_repeatable
    assert not parse(prompt_cache_key="k").is_repeatable


def test_a_trigger_asks_for_a_summary_behind_the_whole_conversation() -> None:
    plain = parse(tools=[ADD_NOTE])
    parsed = parse(tools=[ADD_NOTE], input=[USER, {"type": "compaction_trigger"}])
    assert reply(parsed).is_summary
    assert parsed.request.tools == plain.request.tools
    assert parsed.request.tool_choice.mode == "none"
    assert parsed.request.messages[:-1] == plain.request.messages
    assert not reply(parse(input=[USER, {"type": "compaction_trigger"}, USER])).is_summary


def test_a_summary_that_comes_back_is_read() -> None:
    (summary, user) = messages({"type": "compaction", "encrypted_content": wrap("We did it.")}, USER)
    assert summary.role == "user"
    assert summary.parts == (TextPart(text="Summary of the conversation up to here:\n\nWe did it."),)
    assert user == HI


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"input": ...}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [USER, {**CALL, "call_id": ""}]}, "input[1].call_id"),
        ({"input": [USER, CALL, CALL]}, "input[2].call_id"),
        ({"model": ...}, "model"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**NOTES, "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 5}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], at: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse(**body)
    assert raised.value.details["param"] == at


def test_an_uploaded_file_is_refused_as_such() -> None:
    with pytest.raises(UnsupportedContentError):
        parse(input=[{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}])


def test_logprobs_are_asked_for_in_two_ways() -> None:
    assert parse().request.sampling.top_logprobs is None
    assert parse(include=["message.output_text.logprobs"]).request.sampling.top_logprobs == 0
    assert parse(top_logprobs=3).request.sampling.top_logprobs == 3


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({"input": "hi"}, ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},)),
        ({"input": [USER]}, (USER,)),
        ({"store": False}, None),
    ],
)
def test_a_conversation_is_kept_with_its_answer_unless_the_client_keeps_it(body: dict[str, Any], kept: Any) -> None:
    assert parse(**body).items == kept


@pytest.mark.parametrize("key", ["previous_response_id", "conversation", "prompt"])
def test_what_is_not_here_is_refused_and_named(key: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse(**{key: "x"})
    assert raised.value.details["param"] == key


def test_what_runs_in_the_background_says_so_in_its_answer() -> None:
    reply = parse(background=True).reply
    assert isinstance(reply, ResponsesReply)
    assert reply.echo["background"] is True
    with pytest.raises(InvalidRequestError, match="background"):
        parse(background="yes")


@pytest.mark.parametrize("kind", ["image", "document", "tool_use", "tool_result", "thinking"])
def test_content_of_another_vendors_api_is_refused_by_its_name(kind: str) -> None:
    with pytest.raises(UnsupportedContentError) as caught:
        parse(input=[{"role": "user", "content": [{"type": kind, "source": {}}]}])
    assert caught.value.message.startswith(f"input[0].content[0].type: content of type {kind!r} is of another API")
