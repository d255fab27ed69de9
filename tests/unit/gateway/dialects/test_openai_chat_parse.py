"""What chat clients send, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.base import Parsed
from gateway.dialects.openai_chat.render import ChatReply
from gateway.dialects.registry import DIALECTS
from shared.errors import InvalidRequestError, UnsupportedContentError
from shared.events import Event, Finished, Started, TextDelta, Usage, assemble
from shared.messages import DocumentPart, ImagePart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.request import ReasoningOptions, ToolChoice, ToolDefinition
from tests.unit.gateway.dialects.answers import context

USER = {"role": "user", "content": "hi"}


CALL = {"id": "c1", "type": "function", "function": {"name": "Bash", "arguments": "{}"}}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}} | more}


def reply(parsed: Parsed) -> ChatReply:
    assert isinstance(parsed.reply, ChatReply)
    return parsed.reply


def parse(headers: dict[str, str] | None = None, **body: Any) -> Parsed:
    full = {"model": "m", "messages": [USER]} | body
    given = {key: value for key, value in full.items() if value is not ...}
    return DIALECTS["openai_chat"].parse_request(given, headers or {}, request_id="r1")


def messages(*wire: dict[str, Any]) -> tuple[Message, ...]:
    return parse(messages=list(wire)).request.messages


def test_a_minimal_request() -> None:
    parsed = parse()
    assert parsed.request.messages == (Message(role="user", parts=(TextPart(text="hi"),)),)
    assert parsed.request.sampling.max_tokens is None
    assert not parsed.stream
    assert parsed.reply == ChatReply()


def test_null_is_the_same_as_absent() -> None:
    optional = [
        "max_tokens max_completion_tokens stream stream_options tools tool_choice parallel_tool_calls n functions stop",
        "response_format seed logprobs top_logprobs logit_bias temperature top_p presence_penalty frequency_penalty",
        "function_call reasoning_effort chat_template_kwargs prompt_cache_key top_k min_p repetition_penalty user",
    ]
    assert parse(**dict.fromkeys(" ".join(optional).split())) == parse()


def test_fields_that_mean_nothing_here_are_accepted() -> None:
    ignored = {
        "store": False,
        "audio": {"voice": "alloy", "format": "mp3"},
        "prediction": {"type": "content", "content": "x"},
        "modalities": ["text"],
        "prompt_cache_options": {},
        "prompt_cache_retention": "24h",
    }
    assert parse(**ignored) == parse()


def test_a_user_is_a_hint_whatever_its_type() -> None:
    assert [parse(user=name).request.user for name in ("u", "", None, 5, {})] == ["u", "", "", "", ""]
    assert parse(user="u", safety_identifier="s").request.user == "s"


def test_flexible_requests_are_batch_work_unless_the_header_names_another_class() -> None:
    assert parse().request.priority == "interactive"
    assert parse(service_tier="flex").request.priority == "batch"
    assert parse({"x-mlx-gateway-priority": "side"}, service_tier="flex").request.priority == "side"
    with pytest.raises(InvalidRequestError, match="x-mlx-gateway-priority"):
        parse({"x-mlx-gateway-priority": ""})


def test_a_tool_conversation() -> None:
    got = messages(
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "out"}]},
    )
    assert got == (
        Message(role="system", parts=(TextPart(text="be brief"),)),
        Message(role="user", parts=(TextPart(text="go"),)),
        Message(
            role="assistant",
            parts=(ReasoningPart(text="hm"), ToolCallPart(id="c1", name="f", arguments='{"a": 1}')),
        ),
        Message(role="tool", parts=(ToolResultPart(call_id="c1", parts=(TextPart(text="out"),)),)),
    )


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "hm"},
        {
            "type": "thinking",
            "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}],
            "closed": True,
        },
        {"type": "reasoning", "text": "hm"},
        {"type": "reasoning", "reasoning": "hm", "signature": "s"},
    ],
)
def test_parts_of_an_answer_may_hold_its_reasoning(part: dict[str, Any]) -> None:
    (answer,) = messages({"role": "assistant", "content": [part, {"type": "text", "text": "yes"}]})
    assert answer.parts == (ReasoningPart(text="hm"), TextPart(text="yes"))


def test_reasoning_that_nobody_can_read_is_no_text() -> None:
    (answer,) = messages({"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, "yes"]})
    assert answer.parts == (ReasoningPart(text=""), TextPart(text="yes"))


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}]])
def test_a_lone_empty_user_message_is_served(content: Any) -> None:
    assert messages({"role": "user", "content": content}) == (Message(role="user", parts=()),)


@pytest.mark.parametrize(
    ("stray", "shown"),
    [
        ({"role": "tool", "tool_call_id": "gone", "content": "late"}, "Result of an earlier tool call:"),
        (
            {"role": "tool", "tool_call_id": "gone", "name": "Read", "content": "late"},
            "Result of an earlier call of the tool Read:",
        ),
        ({"role": "tool", "tool_call_id": "c1", "content": "late"}, "Result of an earlier call of the tool Bash:"),
        ({"role": "function", "name": "Read", "content": "late"}, "Result of an earlier call of the tool Read:"),
    ],
)
def test_a_result_that_answers_no_open_call_is_shown_as_text(stray: dict[str, Any], shown: str) -> None:
    answered = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    *_, result, last = messages(USER, {"role": "assistant", "tool_calls": [CALL]}, answered, stray)
    assert result == Message(role="tool", parts=(ToolResultPart(call_id="c1", parts=(TextPart(text="1"),)),))
    assert last == Message(role="user", parts=(TextPart(text=shown), TextPart(text="late")))


def test_reasoning_is_accepted_back_under_both_names() -> None:
    for key in ("reasoning_content", "reasoning"):
        assert messages({"role": "assistant", "content": "a", key: "hm"})[0].parts[0] == ReasoningPart(text="hm")


def test_old_function_calls_find_their_results() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answer = {"role": "function", "name": "f", "content": "out"}
    got = messages(USER, call, answer, call, answer)
    calls = [part for m in got for part in m.parts if isinstance(part, ToolCallPart)]
    results = [part for m in got for part in m.parts if isinstance(part, ToolResultPart)]
    assert [c.id for c in calls] == [r.call_id for r in results]
    assert len({c.id for c in calls}) == 2


def test_custom_tool_calls_in_history_are_kept() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    (message,) = messages({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.parts == (ToolCallPart(id="c", name="patch", arguments='{"input": "*** Begin"}'),)


def test_arguments_sent_as_an_object_are_understood() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    (message,) = messages({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.parts == (ToolCallPart(id="c", name="f", arguments='{"a": 1}'),)


def test_images_and_files() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "image_url", "image_url": "https://example.org/a.png"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
    ]
    assert messages({"role": "user", "content": content})[0].parts == (
        ImagePart(media_type="image/png", data="AAAA"),
        ImagePart(media_type="", url="https://example.org/a.png"),
        DocumentPart(media_type="application/pdf", data="BBBB", title="a.pdf"),
    )


def test_audio_is_refused_as_unsupported() -> None:
    content = [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]
    with pytest.raises(UnsupportedContentError, match=r"^messages\[0\]\.content\[0\]\.type: "):
        messages({"role": "user", "content": content})


def test_tools_that_are_no_functions_are_left_out() -> None:
    tools = [
        function("f", description="d", strict=True),
        {"type": "web_search"},
        {"type": "namespace", "tools": []},
        {"type": "custom", "custom": {"name": "x"}},
    ]
    assert parse(tools=tools).request.tools == (
        ToolDefinition(name="f", description="d", parameters={"type": "object"}, strict=True),
    )


def test_old_functions_are_tools() -> None:
    parsed = parse(functions=[{"name": "f", "parameters": {}}], function_call={"name": "f"})
    assert parsed.request.tools == (ToolDefinition(name="f"),)
    assert parsed.request.tool_choice == ToolChoice(mode="tool", name="f", parallel=False)
    assert reply(parsed).functions


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "expected", "left"),
    [
        ("auto", ToolChoice(), ["f", "g"]),
        ("none", ToolChoice(mode="none"), ["f", "g"]),
        ("required", ToolChoice(mode="any"), ["f", "g"]),
        ({"type": "function", "function": {"name": "g"}}, ToolChoice(mode="tool", name="g"), ["f", "g"]),
        (allowed("auto", "g"), ToolChoice(), ["g"]),
        (allowed("required", "f", "g"), ToolChoice(mode="any"), ["f", "g"]),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice, left: list[str]) -> None:
    request = parse(tools=[function("f"), function("g")], tool_choice=choice).request
    assert request.tool_choice == expected
    assert [tool.name for tool in request.tools] == left


def test_parallel_tool_calls_can_be_switched_off() -> None:
    request = parse(tools=[function("f")], parallel_tool_calls=False).request
    assert request.tool_choice == ToolChoice(parallel=False)


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, {}),
        ({"type": "json_schema", "schema": {"type": "array"}}, {"type": "array"}),
        (
            {"type": "json_object", "schema": {"type": "object", "required": ["a"]}},
            {"type": "object", "required": ["a"]},
        ),
        ({"type": "json_object", "schema": None}, {}),
    ],
)
def test_response_format(wanted: dict[str, Any], schema: dict[str, Any] | None) -> None:
    assert parse(response_format=wanted).request.response_schema == schema


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": -1}, None),
    ],
)
def test_max_tokens_under_both_names(body: dict[str, Any], expected: int | None) -> None:
    assert parse(**body).request.sampling.max_tokens == expected


def test_sampling() -> None:
    sampling = parse(
        stop="END",
        seed=5,
        temperature=2,
        top_p=0,
        top_k=-1,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={"11": 5, "12": -100},
    ).request.sampling
    assert (sampling.stop, sampling.seed, sampling.temperature, sampling.top_p) == (("END",), 5, 2.0, 0.0)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (0, 0.1, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-2.0, 2.0)
    assert sampling.logit_bias == {11: 5.0, 12: -100.0}
    assert parse(stop=["a", "b"]).request.sampling.stop == ("a", "b")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_logprobs(body: dict[str, Any], expected: int | None) -> None:
    parsed = parse(**body)
    assert parsed.request.sampling.top_logprobs == expected
    assert reply(parsed).logprobs == (expected is not None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ReasoningOptions()),
        ({"reasoning_effort": "minimal"}, ReasoningOptions(effort="minimal")),
        ({"reasoning_effort": "high"}, ReasoningOptions(effort="high")),
        ({"reasoning_effort": "none"}, ReasoningOptions(enabled=False)),
        ({"reasoning": {"max_tokens": 2000}}, ReasoningOptions(budget_tokens=2000)),
        ({"thinking_budget": 0, "reasoning_effort": "low"}, ReasoningOptions(budget_tokens=0, effort="low")),
        ({"thinking_token_budget": -1}, ReasoningOptions()),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, ReasoningOptions(budget_tokens=5)),
        (
            {"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 64}},
            ReasoningOptions(enabled=True, budget_tokens=64),
        ),
        ({"chat_template_kwargs": {"thinking_budget": "high"}, "reasoning": "on"}, ReasoningOptions()),
        ({"chat_template_kwargs": {"enable_thinking": False}}, ReasoningOptions(enabled=False)),
        ({"chat_template_kwargs": {"thinking": True}}, ReasoningOptions(enabled=True)),
        ({"chat_template_kwargs": {"reasoning_effort": "xhigh"}}, ReasoningOptions(effort="xhigh")),
        ({"chat_template_kwargs": {"enable_thinking": False, "thinking": True}}, ReasoningOptions(enabled=False)),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"},
            ReasoningOptions(enabled=True),
        ),
    ],
)
def test_reasoning(body: dict[str, Any], expected: ReasoningOptions) -> None:
    assert parse(**body).request.reasoning == expected


def test_an_effort_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"'bogus'.*'none', 'minimal', 'low', 'medium', 'high', 'xhigh'"
    ) as told:
        parse(reasoning_effort="bogus")
    assert told.value.details["param"] == "reasoning_effort"
    # The template's own words are its own.
    assert (
        parse(chat_template_kwargs={"reasoning_effort": "bogus"}).request.template_variables["reasoning_effort"]
        == "bogus"
    )


def test_the_session_comes_from_headers_or_the_cache_key() -> None:
    assert parse({"x-session-id": "a", "x-session-affinity": "b"}, prompt_cache_key="c").request.session == "a"
    assert parse({"x-session-affinity": "b"}, prompt_cache_key="c").request.session == "b"
    keyed = parse(prompt_cache_key="c", user="somebody").request
    assert (keyed.session, keyed.cache_key, keyed.user) == ("", "c", "somebody"), "conversations may share a cache key"


def test_usage_in_the_stream_is_asked_for() -> None:
    parsed = parse(stream=True, stream_options={"include_usage": True})
    assert parsed.stream
    assert reply(parsed).include_usage


ASSISTANT = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"model": ...}, "model", "Field required"),
        ({"messages": []}, "messages", "at least one message is required"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "Input should be one of 'system', "),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Field required"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "Input should be a valid string or list",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "Field required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
            "messages[0].content[0].image_url.url",
            "Input should be an http(s) or base64 data URL",
        ),
        (
            {"messages": [USER, {"role": "tool", "content": ""}]},
            "messages[1].tool_call_id",
            "Field required",
        ),
        (
            {"messages": [ASSISTANT | {"tool_calls": [CALL, CALL]}]},
            "messages[0].tool_calls[1].id",
            "tool call ids must be unique, 'c1' is used twice",
        ),
        (
            {"messages": [ASSISTANT | {"tool_calls": [{"id": "x", "function": {"arguments": "{}"}}]}]},
            "messages[0].tool_calls[0].function.name",
            "Field required",
        ),
        ({"n": 0}, "n", "Input should be greater than or equal to 1"),
        ({"n": 33}, "n", "Input should be less than or equal to 32"),
        ({"top_logprobs": 2}, "top_logprobs", "needs `logprobs` to be true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "Input should be less than or equal to 20"),
        ({"max_tokens": 0}, "max_tokens", "Input should be greater than or equal to 1"),
        ({"stop": [""]}, "stop[0]", "String should have at least 1 character"),
        ({"stop": ["a"] * 65}, "stop", "List should have at most 64 items"),
        ({"tools": [function("f"), function("f")]}, "tools[1].function.name", "function names must be unique"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "Field required"),
        ({"tool_choice": "required"}, "tool_choice", "may be 'required' only with function tools"),
        ({"tool_choice": "sometimes"}, "tool_choice", "Input should be 'none', 'auto', 'required' or a tool to call"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
            "there is no function 'g' among the tools",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Field required"),
        (
            {"response_format": {"type": "json_object", "schema": []}},
            "response_format.schema",
            "Input should be an object",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "Input should be 'text', 'json_object' or"),
        ({"stream": True, "stream_options": []}, "stream_options", "Input should be an object"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when `stream` is true"),
        ({"repetition_penalty": 0}, "repetition_penalty", "Input should be greater than 0"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**body)
    assert caught.value.details["param"] == param
    assert caught.value.message.startswith(f"{param}: {message}")


@pytest.mark.parametrize(("n", "choices"), [(None, 1), (1, 1), (3, 3)])
def test_how_many_choices_are_wanted(n: int | None, choices: int) -> None:
    assert parse(n=n).choices == choices


CUSTOM = {"type": "custom", "custom": {"name": "code", "description": "Run code."}}


@pytest.mark.parametrize(
    "choice",
    [
        None,
        "required",
        {"type": "custom", "custom": {"name": "code"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CUSTOM]}},
    ],
)
def test_tools_that_are_no_functions_are_dropped_with_a_warning_and_never_demanded(choice: Any) -> None:
    parsed = parse(tools=[CUSTOM, {"type": "web_search"}], tool_choice=choice)
    assert parsed.request.tools == ()
    assert parsed.request.tool_choice == ToolChoice()
    assert parsed.warnings == ("not available here: code, web_search",)


def test_beside_tools_that_were_dropped_functions_can_be_demanded() -> None:
    function = {"type": "function", "function": {"name": "f"}}
    parsed = parse(tools=[CUSTOM, function], tool_choice="required")
    assert parsed.request.tool_choice == ToolChoice(mode="any")
    assert [tool.name for tool in parsed.request.tools] == ["f"]


def test_variables_of_the_clients_own_go_to_the_chat_template() -> None:
    wanted = {"enable_thinking": False, "identity": "a pirate", "rules": [{"a": 1}]}
    assert parse(chat_template_kwargs=wanted).request.template_variables == wanted
    assert parse().request.template_variables == {}


@pytest.mark.parametrize(
    "variables",
    [
        {"messages": []},
        {"tools": []},
        {"add_generation_prompt": False},
        {"strftime_now": "x"},
        {"identity": "x" * 20_000},
        {f"name{number}": 1 for number in range(65)},
    ],
    ids=["messages", "tools", "header", "function", "large", "many"],
)
def test_variables_that_prompts_are_made_of_or_that_are_too_many_are_refused(variables: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="chat_template_kwargs"):
        parse(chat_template_kwargs=variables)


# --- what comes back, is stored, or cannot be done ------------------------------------------------------------------


def test_metadata_and_tier_come_back() -> None:
    reply = parse(metadata={"run": "7"}, service_tier="flex").reply
    assert isinstance(reply, ChatReply)
    answer = reply.render([assemble([Started(usage=Usage()), Finished(reason="stop", usage=Usage())])], context())
    assert (answer["metadata"], answer["service_tier"]) == ({"run": "7"}, "flex")
    assert parse(service_tier="priority").reply == ChatReply(echoed={"service_tier": "default"})
    assert parse(metadata=None, service_tier=None).reply == ChatReply()


def test_what_is_to_be_stored_is_kept_with_its_messages() -> None:
    assert parse(store=True).items == (USER,)
    assert parse(store=False).items is None
    assert parse().items is None, "the API stores only what it is told to"


def test_a_stream_that_is_stored_comes_to_the_whole_answer() -> None:
    events: list[Event] = [
        Started(usage=Usage(input_tokens=3)),
        TextDelta(text="one"),
        TextDelta(text=" two"),
        Finished(reason="stop", usage=Usage(input_tokens=3, output_tokens=2)),
    ]
    reply = ChatReply(is_stored=True, echoed={"metadata": {"a": "b"}})
    stream = reply.stream(context(choices=2))
    for choice in (1, 0):
        assert stream.answer is None
        for event in events:
            stream.feed(event, choice)
    assert stream.answer == reply.render([assemble(events)] * 2, context(choices=2))
    unstored = ChatReply().stream(context())
    for event in events:
        unstored.feed(event)
    assert unstored.answer is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web search"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
    ],
)
def test_what_cannot_be_done_is_said(body: dict[str, Any], words: str) -> None:
    assert words in "; ".join(parse(**body).warnings)


def test_what_is_usual_is_no_reason_for_a_warning() -> None:
    assert parse(verbosity="medium", modalities=["text"], prediction=None).warnings == ()


@pytest.mark.parametrize("content", ["the file as it was", [{"type": "text", "text": "the file"}]])
def test_a_prediction_is_accepted(content: Any) -> None:
    assert parse(prediction={"type": "content", "content": content}).warnings == ()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"verbosity": "loud"}, "verbosity"),
        ({"prediction": {"type": "image"}}, "prediction.type"),
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"metadata": {"a" * 65: "b"}}, f"metadata.{'a' * 65}"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"store": "yes"}, "store"),
    ],
)
def test_what_an_answer_without_it_would_not_be_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**body)
    assert caught.value.details["param"] == param
