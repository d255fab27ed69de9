"""What the transcripts do not show of Responses: what Codex reads in an ending, and what comes back as history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from gateway.canonical import canonicalise
from gateway.dialects.openai_responses.render import ResponsesReply
from gateway.dialects.openai_responses.tools import Origin
from gateway.dialects.registry import DIALECTS
from shared.errors import ERROR_CODES, OverloadedError, PromptTooLongError, build_error
from shared.events import (
    Completion,
    Event,
    Failed,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
    assemble,
)
from shared.messages import ReasoningPart, TextPart, ToolCallPart
from tests.unit.gateway.dialects.answers import answers, context, openai_client, parse_sse
from tests.unit.gateway.dialects.test_render import said

USAGE = Usage(input_tokens=120, cached_tokens=100, output_tokens=5, reasoning_tokens=2)
TOOLS = [
    {"type": "custom", "name": "Bash"},
    {"type": "namespace", "name": "mcp__x.y", "tools": [{"type": "function", "name": "z"}]},
    {"type": "function", "name": "Read"},
]


def failed(error: Failed) -> dict[str, Any]:
    renderer = ResponsesReply().stream(context())
    (name, data) = parse_sse(renderer.start() + renderer.feed(TextDelta(text="x")) + renderer.feed(error))[-1]
    assert name == "response.failed"
    response: dict[str, Any] = data["response"]
    assert response["status"] == "failed"
    return response


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_every_failure_in_mid_stream_ends_with_a_code_of_the_vendor(code: str) -> None:
    error = failed(Failed.of(build_error(code, "the reason")))["error"]
    assert error["message"].startswith("the reason")
    assert error["code"] in ("server_error", "rate_limit_exceeded", "context_length_exceeded", "invalid_prompt")


def test_codes_and_words_that_codex_acts_on() -> None:
    error = failed(Failed.of(OverloadedError("the queue is full", retry_after_s=2.5)))["error"]
    assert error == {
        "code": "rate_limit_exceeded",
        "message": "the queue is full Please try again in 3s.",
    }
    error = failed(Failed.of(PromptTooLongError.of(9, 8)))["error"]
    assert error["code"] == "context_length_exceeded"


def test_items_that_were_whole_before_a_failure_stay() -> None:
    renderer = ResponsesReply().stream(context())
    for event in (
        Started(usage=USAGE),
        ToolCallStarted(index=0, id="c1", name="f"),
        ToolCallDelta(index=0, arguments="{}"),
        ToolCallFinished(index=0),
        TextDelta(text="half"),
    ):
        renderer.feed(event)
    (_, data) = parse_sse(renderer.feed(Failed(code="worker_lost", message="gone")))[-1]
    assert [item["type"] for item in data["response"]["output"]] == ["function_call"]


REASONS: dict[FinishReason, tuple[str, Any]] = {
    "stop": ("completed", None),
    "stop_sequence": ("completed", None),
    "tool_calls": ("completed", None),
    "length": ("incomplete", {"reason": "max_output_tokens"}),
    "context_length": ("incomplete", {"reason": "max_output_tokens"}),
    "content_filter": ("incomplete", {"reason": "content_filter"}),
}


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_endings(reason: FinishReason) -> None:
    completion = Completion(parts=(TextPart(text="hi"),), reason=reason, usage=USAGE)
    whole = ResponsesReply().render([completion], context())
    assert (whole["status"], whole["incomplete_details"]) == REASONS[reason]
    assert whole["output"][0]["status"] == whole["status"]


def test_the_usage_has_every_figure_that_the_sdk_demands() -> None:
    whole = ResponsesReply().render([Completion(parts=(), reason="stop", usage=USAGE)], context())
    assert whole["usage"] == {
        "input_tokens": 120,
        "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 125,
    }


def test_a_sign_of_life_is_an_event_that_codex_parses() -> None:
    renderer = ResponsesReply().stream(context())
    opening, waiting = parse_sse(renderer.keepalive(5.0)), parse_sse(renderer.keepalive(500.0))
    assert [name for name, _ in opening] == ["response.created", "response.in_progress"]
    ((name, data),) = waiting
    assert (name, data["sequence_number"], data["response"]["status"]) == ("response.in_progress", 2, "in_progress")


def test_a_call_of_a_namespace_and_a_search_have_the_clients_words() -> None:
    parts = (
        ToolCallPart(id="a", name="mcp__demo__add_note", arguments='{"text": "x"}'),
        ToolCallPart(id="b", name="tool_search", arguments='{"query": "q", "limit": 3}'),
        ToolCallPart(id="c", name="apply_patch", arguments='{"input": "*** Begin"}'),
        ToolCallPart(id="d", name="apply_patch", arguments="*** Begin"),
        ToolCallPart(id="e", name="plain", arguments=""),
    )
    origins = {
        "mcp__demo__add_note": Origin(name="add_note", namespace="mcp__demo"),
        "tool_search": Origin(kind="tool_search", name="tool_search"),
        "apply_patch": Origin(kind="custom", name="apply_patch"),
    }
    reply = ResponsesReply(origins=origins)
    note, search, patch, raw, plain = reply.render(
        [Completion(parts=parts, reason="tool_calls", usage=USAGE)], context()
    )["output"]
    assert (note["type"], note["name"], note["namespace"], note["call_id"]) == (
        "function_call",
        "add_note",
        "mcp__demo",
        "a",
    )
    assert (search["type"], search["execution"], search["arguments"]) == (
        "tool_search_call",
        "client",
        {"query": "q", "limit": 3},
    )
    assert (patch["type"], patch["input"], patch["status"]) == ("custom_tool_call", "*** Begin", "completed")
    assert (raw["input"], raw["status"]) == ("*** Begin", "incomplete")
    assert (plain["arguments"], "namespace" in plain) == ("{}", False)
    assert len({item["id"] for item in (note, search, patch, raw, plain)}) == 5


@settings(deadline=None)
@given(events=answers())
def test_a_summary_is_exactly_one_item_and_reads_as_it_was_written(events: list[Event]) -> None:
    completion = assemble(events)
    (item,) = ResponsesReply(is_summary=True).render([completion], context())["output"]
    assert item["type"] == "compaction"
    body = {"model": "m", "input": [item, {"role": "user", "content": "go on"}]}
    first, _ = DIALECTS["openai_responses"].parse_request(body, {}, request_id="r").request.messages
    text = "".join(part.text for part in completion.parts if isinstance(part, TextPart))
    assert first.parts == (TextPart(text=f"Summary of the conversation up to here:\n\n{text}"),)


@settings(deadline=None)
@given(events=answers())
def test_what_we_answer_comes_back_as_what_was_generated(events: list[Event]) -> None:
    """Every item as it was sent, which is how Codex, OpenCode and pi keep a conversation; whatever kind each tool is.
    (Calls whose arguments are no JSON object have no other form in this API than text.)"""
    body: dict[str, Any] = {"model": "m", "input": [{"role": "user", "content": "go"}], "store": False, "tools": TOOLS}
    dialect = DIALECTS["openai_responses"]
    reply = dialect.parse_request(body, {}, request_id="r").reply
    completion = assemble(events)
    output = reply.render([completion], context())["output"]

    body["input"] += output
    request = dialect.parse_request(body, {}, request_id="r").request

    spoken = [part for m in canonicalise(request).messages if m.role == "assistant" for part in m.parts]
    text, reasoning, calls = said(spoken)
    expected_text, expected_reasoning, expected_calls = said(completion.parts)
    assert (text, reasoning) == (expected_text, expected_reasoning)
    assert [call for call in calls if call[0] != "Bash"] == [call for call in expected_calls if call[0] != "Bash"]
    assert len(calls) == len(expected_calls)


def test_free_text_comes_back_as_the_arguments_that_were_generated() -> None:
    arguments = '{"input": "*** Begin Patch\\n+ \\"quoted\\" ä\\n"}'
    parts = (ReasoningPart(text="hm"), ToolCallPart(id="c", name="Bash", arguments=arguments))
    dialect = DIALECTS["openai_responses"]
    body: dict[str, Any] = {"model": "m", "input": [{"role": "user", "content": "go"}], "store": False, "tools": TOOLS}
    reply = dialect.parse_request(body, {}, request_id="r").reply
    output = reply.render([Completion(parts=parts, reason="tool_calls", usage=USAGE)], context())["output"]
    history = dialect.parse_request({**body, "input": [*body["input"], *output]}, {}, request_id="r").request.messages
    assert [part for message in history[1:] for part in message.parts] == list(parts)


def test_the_sdk_reads_the_error_that_ends_a_stream() -> None:
    renderer = ResponsesReply().stream(context())
    body = renderer.start() + renderer.feed(Started(usage=USAGE)) + renderer.feed(Failed(code="internal", message="oh"))
    with openai_client(body).responses.stream(model="m", input="hi") as stream:
        *_, last = stream
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"


def test_an_answer_repeats_what_was_asked() -> None:
    body = {"model": "m", "input": "hi", "instructions": "be brief", "metadata": {"a": "b"}, "tools": TOOLS}
    reply = DIALECTS["openai_responses"].parse_request(body, {}, request_id="r").reply
    whole = reply.render([Completion(parts=(), reason="stop", usage=USAGE)], context())
    assert (whole["instructions"], whole["metadata"], whole["tools"]) == ("be brief", {"a": "b"}, TOOLS)
    assert (whole["id"], whole["object"], whole["model"]) == ("resp_r1", "response", "some-model")


def test_finishing_closes_what_is_open() -> None:
    renderer = ResponsesReply().stream(context())
    body = renderer.feed(TextDelta(text="x")) + renderer.feed(Finished(reason="stop", usage=USAGE))
    assert [name for name, _ in parse_sse(body)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
