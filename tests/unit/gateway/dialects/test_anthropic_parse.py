"""What Claude Code and the SDKs send to the Messages API, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.canonical import canonicalise
from gateway.dialects.anthropic.render import MessageReply
from gateway.dialects.base import Parsed
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
from shared.request import ReasoningOptions, ToolChoice, ToolDefinition

USER = {"role": "user", "content": "hi"}
BASH = {"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}}
WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


def reply(parsed: Parsed) -> MessageReply:
    assert isinstance(parsed.reply, MessageReply)
    return parsed.reply


def parse(headers: dict[str, str] | None = None, *, counting: bool = False, **body: Any) -> Parsed:
    full = {"model": "m", "max_tokens": 9, "messages": [USER]} | body
    given = {key: value for key, value in full.items() if value is not ...}
    return DIALECTS["anthropic"].parse_request(given, headers or {}, request_id="r1", counting=counting)


def parts(role: str, *content: Any, before: list[dict[str, Any]] | None = None) -> tuple[Any, ...]:
    messages = [*(before or []), {"role": role, "content": list(content)}]
    return parse(messages=messages).request.messages[-1].parts


def refusal(**body: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**body)
    return caught.value


def test_a_minimal_request() -> None:
    parsed = parse(stream=True, temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["END"])
    request = parsed.request
    assert (request.id, request.model, parsed.stream) == ("r1", "m", True)
    assert request.messages == (Message(role="user", parts=(TextPart(text="hi"),)),)
    assert request.sampling.max_tokens == 9
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.5, 0.9, 40)
    assert request.sampling.stop == ("END",)
    assert (request.priority, request.session, request.response_schema) == ("interactive", "", None)


def test_unknown_fields_are_accepted_everywhere() -> None:
    parsed = parse(
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": "{}"},
        safeguards={"x": 1},
        messages=[{"role": "user", "new": 1, "content": [{"type": "text", "text": "hi", "citations": [], "new": {}}]}],
        tools=[BASH | {"eager_input_streaming": True, "cache_control": {"type": "ephemeral"}}],
    )
    assert parsed.request.messages == (Message(role="user", parts=(TextPart(text="hi"),)),)


@pytest.mark.parametrize("content", ["hi", [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]])
@pytest.mark.parametrize("system", ["sys", [{"type": "text", "text": "sys", "cache_control": {"type": "ephemeral"}}]])
def test_strings_and_blocks_and_cache_control_mean_the_same(content: Any, system: Any) -> None:
    reference = parse(system="sys").request
    assert parse(system=system, messages=[{"role": "user", "content": content}]).request == reference


def test_system_messages_keep_their_role_and_place() -> None:
    parsed = parse(system="head", messages=[USER, {"role": "system", "content": [{"type": "text", "text": "env"}]}])
    assert [m.role for m in parsed.request.messages] == ["system", "user", "system"]


def test_the_first_request_of_claude_code_has_a_clean_head() -> None:
    parsed = parse(
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are"},
        ],
        messages=[USER, {"role": "system", "content": "# Environment"}],
    )
    assert canonicalise(parsed.request).messages == (
        Message(role="system", parts=(TextPart(text="You are"),)),
        Message(role="user", parts=(TextPart(text="hi\n<system-reminder>\n# Environment\n</system-reminder>"),)),
    )


def test_thinking_is_kept_with_its_signature() -> None:
    got = parts(
        "assistant",
        {"type": "thinking", "thinking": "hm", "signature": "abc"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "ok"},
    )
    assert got == (
        ReasoningPart(text="hm", signature="abc"),
        ReasoningPart(text="", signature="xyz"),
        TextPart(text="ok"),
    )


def test_thinking_without_a_signature_is_fine() -> None:
    assert parts("assistant", {"type": "thinking", "thinking": "hm"}) == (ReasoningPart(text="hm"),)


def test_tool_use_input_becomes_text_in_the_order_sent() -> None:
    use = {
        "type": "tool_use",
        "id": "t1",
        "name": "Bash",
        "input": {"z": "é", "a": [1, 2.5]},
        "caller": {"type": "direct"},
    }
    assert parts("assistant", use) == (ToolCallPart(id="t1", name="Bash", arguments='{"z": "é", "a": [1, 2.5]}'),)


def test_input_that_never_parsed_comes_back_as_the_model_wrote_it() -> None:
    raw = '{"command": "ls'
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"__unparsedToolInput": {"raw": raw, "len": 15}}}
    assert parts("assistant", use) == (ToolCallPart(id="t1", name="Bash", arguments=raw),)


CALLED = [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}]}]
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (..., ()),
        (None, ()),
        ("", ()),
        ([], ()),
        ("out", (TextPart(text="out"),)),
        ([{"type": "text", "text": "out"}], (TextPart(text="out"),)),
        ([{"type": "image", "source": PNG}], (ImagePart(media_type="image/png", data="AAAA"),)),
        (
            [{"type": "text", "text": "a"}, {"type": "document", "source": PDF, "title": "T"}],
            (TextPart(text="a"), DocumentPart(media_type="application/pdf", data="BBBB", title="T")),
        ),
        ([{"type": "tool_reference", "tool_name": "WebFetch"}], (ToolReferencePart(tool_name="WebFetch"),)),
    ],
)
def test_tool_results_of_every_form(content: Any, expected: tuple[Any, ...]) -> None:
    block = {"type": "tool_result", "tool_use_id": "t1", "is_error": True}
    if content is not ...:
        block["content"] = content
    assert parts("user", block, before=CALLED) == (ToolResultPart(call_id="t1", parts=expected, is_error=True),)


def test_images_and_documents() -> None:
    got = parts(
        "user",
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "body"}, "title": "Title"},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}},
    )
    assert got == (
        ImagePart(media_type="image/png", data="AAAA"),
        ImagePart(media_type="", url="https://example.org/a.png"),
        TextPart(text="Title"),
        TextPart(text="body"),
        TextPart(text="inner"),
    )


@pytest.mark.parametrize("kind", ["image", "document"])
def test_uploaded_files_are_refused_as_unsupported(kind: str) -> None:
    with pytest.raises(UnsupportedContentError, match=r"^messages\.0\.content\.0\.source\.type: "):
        parts("user", {"type": kind, "source": {"type": "file", "file_id": "f"}})
    with pytest.raises(UnsupportedContentError, match=r"^messages\.0\.content\.0: uploaded files are not kept here"):
        parts("user", {"type": "container_upload", "file_id": "f"})


@pytest.mark.parametrize(
    "block",
    [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "x", "cache_control": {}}]},
        {"type": "tool_addition", "tool": {"type": "mcp_toolset_reference", "mcp_server_name": "x"}},
        {"type": "something_new", "a": 1},
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_unknown_blocks_become_the_text_of_their_json(role: str, block: dict[str, Any]) -> None:
    (part,) = parts(role, block | {"cache_control": {"type": "ephemeral"}})
    assert isinstance(part, TextPart)
    assert part.text.startswith(f'{{"type":"{block["type"]}",')
    assert "cache_control" not in part.text


def test_tools_of_every_kind() -> None:
    parsed = parse(
        tools=[
            BASH | {"strict": True},
            {"name": "WebFetch", "type": "custom", "input_schema": {"type": "object"}, "defer_loading": True},
            WEB_SEARCH,
            {"type": "bash_20250124", "name": "bash"},
            {"type": "mcp_toolset", "mcp_server_name": "x"},
        ]
    )
    bash, fetch, shell = parsed.request.tools
    assert bash == ToolDefinition(name="Bash", description="Runs", parameters={"type": "object"}, strict=True)
    assert fetch.deferred
    assert shell.name == "bash"
    assert "command" in shell.parameters["properties"]
    assert parsed.warnings == ("not available here: web_search, mcp_toolset",)


def test_what_nobody_here_can_run_is_told_to_the_model_and_to_the_client() -> None:
    servers = [{"type": "url", "name": "tracker", "url": "https://example.org"}]
    parsed = parse(system="Be brief.", tools=[BASH, WEB_SEARCH], mcp_servers=servers)
    head = canonicalise(parsed.request).messages[0]
    note = "Not available on this server: web_search, MCP server tracker. "
    assert head.role == "system"
    assert head.parts[0].text.startswith(f"Be brief.\n{note}")  # type: ignore[union-attr]
    assert parsed.warnings == ("not available here: web_search, MCP server tracker",)
    assert parse(tools=[BASH]).warnings == ()
    assert parse(tools=[BASH]).request.messages == parse().request.messages


@pytest.mark.parametrize("kind", ["bash_20250124", "text_editor_20250728", "memory_20250818", "computer_20251124"])
def test_tools_that_the_client_runs_are_described_to_the_model(kind: str) -> None:
    (tool,) = parse(tools=[{"type": kind, "name": "x"}]).request.tools
    assert tool.description
    assert tool.parameters["properties"]


def test_a_screen_is_described_with_its_size() -> None:
    screen = {"type": "computer_20251124", "name": "computer", "display_width_px": 1024, "display_height_px": 768}
    (tool,) = parse(tools=[screen]).request.tools
    assert tool.description.endswith("The screen is 1024 by 768 pixels.")


@pytest.mark.parametrize("choice", [None, {"type": "tool", "name": "tool_search_tool_regex"}])
def test_where_the_vendor_would_search_for_tools_all_are_shown(choice: Any) -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    parsed = parse(tools=[search, BASH | {"defer_loading": True}], tool_choice=choice)
    assert [(tool.name, tool.deferred) for tool in parsed.request.tools] == [("Bash", False)]
    assert parsed.request.tool_choice == ToolChoice()
    assert parsed.warnings == ()


SEARCH = [{"role": "user", "content": "Perform a web search for the query: blue lamps"}]


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"tools": [WEB_SEARCH], "messages": SEARCH}, "blue lamps"),
        ({"tools": [WEB_SEARCH, BASH], "tool_choice": {"type": "tool", "name": "web_search"}}, "hi"),
        ({"tools": [WEB_SEARCH], "tool_choice": {"type": "any"}}, "hi"),
        ({"tools": [WEB_SEARCH]}, ""),
        ({"tools": [WEB_SEARCH, BASH], "messages": SEARCH}, ""),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}], "messages": SEARCH}, ""),
    ],
    ids=["as Claude Code asks", "forced", "any, and no other", "possible", "beside others", "another tool"],
)
def test_a_search_that_the_request_is_all_about_is_known(body: dict[str, Any], query: str) -> None:
    assert reply(parse(**body)).search == query


def test_tools_that_join_in_the_conversation_are_shown_there_and_callable() -> None:
    """As Claude Code and the SDKs' tool runners announce tools that come late."""
    fetch = {"name": "WebFetch", "description": "Fetches", "input_schema": {"type": "object"}}
    late = {"name": "Late", "input_schema": {"type": "object"}, "defer_loading": True}
    changes = [
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": fetch}},
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Late"}},
        {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "Bash"}},
    ]
    parsed = parse(
        tools=[BASH, late],
        messages=[USER, {"role": "system", "content": changes}],
        tool_choice={"type": "tool", "name": "WebFetch"},
    )
    assert [(tool.name, tool.deferred) for tool in parsed.request.tools] == [
        ("Bash", False),
        ("Late", True),
        ("WebFetch", True),
    ]
    (message,) = canonicalise(parsed.request).messages
    assert message.parts == (
        TextPart(text="hi"),
        ToolReferencePart(tool_name="WebFetch"),
        ToolReferencePart(tool_name="Late"),
        TextPart(text="<system-reminder>\nThe tool Bash can no longer be called.\n</system-reminder>"),
    )


def test_search_results_of_the_client_are_read_as_text() -> None:
    found = {
        "type": "search_result",
        "title": "Lamps",
        "source": "https://example.org/lamps",
        "content": [{"type": "text", "text": "Seven are blue."}],
        "citations": {"enabled": True},
    }
    expected = (TextPart(text="Lamps\nhttps://example.org/lamps"), TextPart(text="Seven are blue."))
    assert parts("user", found) == expected
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [found]}
    assert parts("user", result, before=CALLED) == (ToolResultPart(call_id="t1", parts=expected),)


def test_what_only_the_vendor_can_read_is_no_text() -> None:
    hit = {"type": "web_search_result", "url": "u", "title": "Lamps", "encrypted_content": "x" * 1000}
    block = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_01", "content": [hit]}
    (part,) = parts("assistant", block)
    assert part.text == (
        '{"type":"web_search_tool_result","tool_use_id":"srvtoolu_01",'
        '"content":[{"type":"web_search_result","url":"u","title":"Lamps"}]}'
    )
    assert parts("assistant", {"type": "fallback", "from": {}, "to": {}}, {"type": "text", "text": "a"}) == (
        TextPart(text="a"),
    )


@pytest.mark.parametrize(
    ("safeguards", "kinds"),
    [
        ([{"type": "dangerous_tool_use", "classifier_context": {}}] * 2, ("dangerous_tool_use",)),
        ([{"no": "type"}, 5], ()),
        ({"x": 1}, ()),
        (None, ()),
    ],
)
def test_checks_that_a_client_wants_are_noted(safeguards: Any, kinds: tuple[str, ...]) -> None:
    assert reply(parse(safeguards=safeguards)).safeguards == kinds


def test_no_tokens_at_all_fill_the_cache() -> None:
    parsed = parse(max_tokens=0)
    assert parsed.request.sampling.max_tokens == 1
    assert reply(parsed).is_warming
    assert not reply(parse(max_tokens=1)).is_warming


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any"}, ToolChoice(mode="any")),
        ({"type": "none"}, ToolChoice(mode="none")),
        ({"type": "tool", "name": "Bash"}, ToolChoice(mode="tool", name="Bash")),
        ({"type": "tool", "name": "web_search"}, ToolChoice()),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice) -> None:
    assert parse(tools=[BASH, WEB_SEARCH], tool_choice=choice).request.tool_choice == expected


def test_any_tool_where_all_run_elsewhere_is_no_choice() -> None:
    assert parse(tools=[WEB_SEARCH], tool_choice={"type": "any"}).request.tool_choice == ToolChoice()


@pytest.mark.parametrize(
    ("thinking", "effort", "expected"),
    [
        (None, None, ReasoningOptions(enabled=False, is_asked=False)),
        (None, "high", ReasoningOptions(enabled=False, effort="high", is_asked=False)),
        ({"type": "disabled"}, None, ReasoningOptions(enabled=False)),
        ({"type": "adaptive", "display": "omitted"}, "high", ReasoningOptions(effort="high")),
        ({"type": "enabled", "budget_tokens": 2048}, None, ReasoningOptions(enabled=True, budget_tokens=2048)),
        ({"type": "between_tools"}, "xhigh", ReasoningOptions(enabled=True, effort="xhigh")),
        ({"type": "of_tomorrow"}, "of_tomorrow", ReasoningOptions()),
        ({"type": "adaptive"}, "max", ReasoningOptions(effort="max")),
    ],
)
def test_thinking_and_effort(thinking: Any, effort: Any, expected: ReasoningOptions) -> None:
    parsed = parse(thinking=thinking, output_config={"effort": effort})
    assert parsed.request.reasoning == expected
    assert [warning for warning in parsed.warnings if "effort" in warning] == (
        ["output_config.effort: 'of_tomorrow' is none of minimal, low, medium, high, xhigh, max and is left out"]
        if effort == "of_tomorrow"
        else []
    )


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_structured_output(place: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    body: dict[str, Any] = {"output_config": {"format": wanted}} if place == "output_config" else {place: wanted}
    assert parse(**body).request.response_schema == {"type": "object"}


def test_extra_sampling_fields_are_used() -> None:
    sampling = parse(
        min_p=0.1, seed=-1, repetition_penalty=1.1, presence_penalty=1, logit_bias={"7": -100}
    ).request.sampling
    assert (sampling.min_p, sampling.repetition_penalty, sampling.presence_penalty) == (0.1, 1.1, 1.0)
    assert sampling.logit_bias == {7: -100.0}
    assert sampling.seed == 2**63 - 1


def test_session_and_agent_name_the_conversation() -> None:
    session = {"x-claude-code-session-id": "s"}
    assert parse(session).request.session == "s"
    subagent = parse(session | {"x-claude-code-agent-id": "a"}).request
    assert (subagent.session, subagent.priority) == ("s/a", "subagent")


@pytest.mark.parametrize("name", ["interactive", "subagent", "side", "batch"])
def test_clients_may_name_the_class_of_their_request(name: str) -> None:
    title = {"output_config": {"format": {"type": "json_schema", "schema": {}}}, "tools": []}
    assert parse({"x-mlx-gateway-priority": name}).request.priority == name
    assert parse({"x-mlx-gateway-priority": f" {name.upper()} "}, **title).request.priority == name


def test_a_class_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="x-mlx-gateway-priority: Input should be one of interactive"):
        parse({"x-mlx-gateway-priority": "urgent"})


def test_a_title_request_yields() -> None:
    title = {"output_config": {"format": {"type": "json_schema", "schema": {}}}}
    assert parse(tools=[], **title).request.priority == "side"
    assert parse({"x-claude-code-agent-id": "a"}, tools=[], **title).request.priority == "side"
    assert parse(**title).request.priority == "interactive"
    assert parse(tools=[]).request.priority == "interactive"


@pytest.mark.parametrize(
    "content",
    [
        "[SUGGESTION MODE: say what comes next]",
        [
            {"type": "text", "text": "<system-reminder>x</system-reminder>"},
            {"type": "text", "text": "[SUGGESTION MODE: x]"},
        ],
    ],
)
def test_a_suggestion_request_yields(content: Any) -> None:
    assert parse(messages=[{"role": "user", "content": content}]).request.priority == "side"
    later = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}, USER]
    assert parse(messages=later).request.priority == "interactive"


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}]])
def test_a_lone_empty_user_message_is_served(content: Any) -> None:
    assert parse(messages=[{"role": "user", "content": content}]).request.messages == (Message(role="user", parts=()),)


def test_a_result_whose_call_is_gone_is_shown_as_text() -> None:
    result = {"type": "tool_result", "tool_use_id": "gone", "content": "late"}
    messages = [
        USER,
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": [result, {"type": "text", "text": "go on"}]},
    ]
    last = canonicalise(parse(messages=messages).request).messages[-1]
    assert last == Message(role="user", parts=(TextPart(text="Result of an earlier tool call:\nlate\ngo on"),))


def test_a_second_result_of_a_call_is_shown_as_text_with_the_name_of_its_tool() -> None:
    first = {"type": "tool_result", "tool_use_id": "t1", "content": "1"}
    again = first | {"content": [{"type": "text", "text": "2"}], "is_error": True}
    messages = canonicalise(parse(messages=[*CALLED, {"role": "user", "content": [first, again]}]).request).messages
    assert messages[-2] == Message(
        role="tool", parts=(ToolResultPart(call_id="call00000", parts=(TextPart(text="1"),)),)
    )
    assert messages[-1] == Message(role="user", parts=(TextPart(text="Error of an earlier call of the tool Bash:\n2"),))


def test_counting_needs_no_max_tokens() -> None:
    assert parse(max_tokens=..., counting=True, tools=[]).request.sampling.max_tokens is None
    assert refusal(max_tokens=...).message == "max_tokens: Field required"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": ...}, "model: Field required"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        ({"messages": ...}, "messages: Field required"),
        ({"messages": {}}, "messages: Input should be a valid list"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["x"]}, "messages.0: Input should be an object"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: Input should be a valid string or list"),
        (
            {"messages": [USER, {"role": "user", "content": [{"type": 5}]}]},
            "messages.1.content.0.type: Input should be a valid string",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text: Field required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "y", "input": {}}]}]},
            "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages.0.content.0.tool_use_id: Field required",
        ),
        (
            {"messages": [*CALLED, CALLED[1]]},
            "messages.2.content.0: `tool_use` ids must be unique, 't1' is used twice",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "image", "source": PNG}]}]},
            "messages.1.content.0: `image` blocks can only be in `user` messages",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "document", "source": PDF}]}]},
            "messages.1.content.0: `document` blocks can only be in `user` messages",
        ),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name: Field required"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema: Field required"),
        ({"tools": [BASH, BASH]}, "tools.1.name: Tool names must be unique, 'Bash' is used twice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: may only be 'any' or 'tool' while providing tools"),
        ({"tool_choice": {"type": "tool", "name": "X"}}, "tool_choice: Tool 'X' not found in provided tools"),
        ({"tool_choice": {"type": "x"}}, "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'"),
        ({"temperature": 3}, "temperature: Input should be between 0 and 2"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences.1: String should have at least 1 character"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": "x"}},
            "thinking.budget_tokens: Input should be a valid integer",
        ),
        ({"output_config": {"format": {"type": "x"}}}, "output_config.format.type: Input should be 'json_schema'"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x: the key should be a token id"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], message: str) -> None:
    error = refusal(**body)
    assert error.message == message
    assert error.details["param"] == message.partition(":")[0]


BILLING = "x-anthropic-billing-header: cc_version=2.1.329.73c; cc_entrypoint=sdk-cli;"


def text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    "system",
    [
        "You are",
        f"{BILLING}\nYou are",
        f"{BILLING}\n\nYou are",
        [text_block(BILLING), text_block("You are")],
        [text_block(f"{BILLING}\nYou are")],
        [text_block(""), text_block("You are")],
    ],
)
@pytest.mark.parametrize("place", ["system", "messages"])
def test_the_billing_block_is_stripped_in_every_form(system: Any, place: str) -> None:
    asked = [{"role": "user", "content": "hi"}]
    body = {"system": system, "messages": asked}
    if place == "messages":
        body = {"messages": [{"role": "system", "content": system}, *asked]}
    messages = canonicalise(parse(**body).request).messages
    assert [(message.role, message.parts) for message in messages] == [
        ("system", (TextPart(text="You are"),)),
        ("user", (TextPart(text="hi"),)),
    ]


def test_a_system_message_of_billing_alone_is_none() -> None:
    (message,) = canonicalise(parse(system=BILLING).request).messages
    assert message.role == "user"


def test_text_that_only_mentions_the_billing_header_stays() -> None:
    mention = f"Never send {BILLING}"
    assert parse(system=mention).request.messages[0].parts == (TextPart(text=mention),)


@pytest.mark.parametrize(
    ("block", "own"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image"),
        ({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}, "image"),
        ({"type": "input_text", "text": "x"}, "text"),
        ({"type": "output_text", "text": "x"}, "text"),
        ({"type": "input_file", "file_data": "x"}, "document"),
        ({"type": "file", "file": {}}, "document"),
        ({"type": "input_audio", "input_audio": {}}, None),
    ],
)
def test_content_of_another_vendors_api_is_refused_by_its_name(block: dict[str, Any], own: str | None) -> None:
    """Not shown to the model as the text of its JSON."""
    hint = f", use `{own}`" if own else ""
    problem = f"`{block['type']}` blocks are of another API{hint}"
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [block]}
    user: dict[str, Any] = {"role": "user", "content": "hi"}
    assert refusal(messages=[{"role": "user", "content": [block]}]).message == f"messages.0.content.0.type: {problem}"
    assert refusal(messages=[user], system=[block]).message == f"system.0.type: {problem}"
    nested = refusal(messages=[{"role": "user", "content": [result]}])
    assert (nested.code, nested.message) == ("unsupported_content", f"messages.0.content.0.content.0.type: {problem}")
