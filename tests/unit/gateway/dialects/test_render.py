"""What the golden transcripts do not show of the streams: waiting, openings, and reasons to stop."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings

from gateway.canonical import FILLER, canonicalise, has_words, normal_arguments
from gateway.dialects.anthropic.render import MessageReply
from gateway.dialects.openai_chat.render import ChatReply
from gateway.dialects.registry import DIALECTS
from shared.events import (
    Completion,
    Event,
    Finished,
    FinishReason,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
    assemble,
)
from shared.messages import Message, Part, ReasoningPart, TextPart, ToolCallPart
from tests.unit.gateway.dialects.answers import REPLIES, answers, anthropic_client, as_sent, context, parse_sse

ANTHROPIC = DIALECTS["anthropic"]
USAGE = Usage(input_tokens=120, cached_tokens=100)


def opening_usage(body: bytes) -> dict[str, Any]:
    (name, data), *_ = parse_sse(body)
    assert name == "message_start"
    usage: dict[str, Any] = data["message"]["usage"]
    return usage


def test_the_opening_carries_the_best_figure_known_by_then() -> None:
    estimated = {"estimated_tokens": 77}
    assert opening_usage(MessageReply(**estimated).stream(context()).start())["input_tokens"] == 77

    waiting = MessageReply(**estimated).stream(context())
    progress = waiting.feed(Progress(phase="prefill", total_tokens=90))
    assert opening_usage(progress)["input_tokens"] == 90

    started = MessageReply(**estimated).stream(context()).feed(Started(usage=USAGE))
    assert opening_usage(started)["input_tokens"] == 20
    assert opening_usage(started)["cache_read_input_tokens"] == 100


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_stream_opens_once(name: str) -> None:
    renderer = REPLIES[name]().stream(context())
    assert renderer.start()
    assert renderer.start() == b""
    assert renderer.feed(Progress(phase="queued")) == b""
    assert renderer.feed(Started(usage=USAGE)) == b""


def wait(seconds: int, every_s: int) -> list[tuple[int, list[str]]]:
    renderer = MessageReply().stream(context())
    renderer.start()
    return [
        (silent_s, [name for name, _ in parse_sse(renderer.keepalive(float(silent_s)))])
        for silent_s in range(every_s, seconds, every_s)
    ]


@pytest.mark.parametrize("every_s", [1, 3, 5, 10])
def test_waiting_feeds_both_timers_of_claude_code(every_s: int) -> None:
    """Bytes at each call; an event that it parses in every two minutes."""
    waits = wait(1800, every_s)
    assert all("ping" in names for _, names in waits)
    noops = [silent_s for silent_s, names in waits if "message_delta" in names]
    assert len(noops) >= 1800 // 120
    assert all(100 < later - earlier <= 120 for earlier, later in pairwise([0, *noops]))


def test_waiting_starts_over_after_a_real_event() -> None:
    renderer = MessageReply().stream(context())
    assert b"message_delta" in renderer.keepalive(1000.0)
    renderer.feed(Started(usage=USAGE))
    renderer.feed(TextDelta(text="hi"))
    assert b"message_delta" not in renderer.keepalive(109.0)
    assert b"message_delta" in renderer.keepalive(110.0)


def test_an_openai_client_that_waits_gets_chunks_that_it_parses_and_that_say_nothing() -> None:
    renderer = ChatReply(include_usage=True).stream(context())
    ((_, first),) = parse_sse(renderer.keepalive(5.0))
    assert first["choices"][0]["delta"]["role"] == "assistant", "the one that opens the stream"
    for silent_s in (5.0, 500.0, 5000.0):
        ((_, chunk),) = parse_sse(renderer.keepalive(silent_s))
        assert chunk["object"] == "chat.completion.chunk"
        (choice,) = chunk["choices"]
        assert (choice["index"], choice["delta"], choice["finish_reason"]) == (0, {"content": ""}, None)


REASONS: dict[FinishReason, tuple[str, str]] = {
    "stop": ("end_turn", "stop"),
    "stop_sequence": ("stop_sequence", "stop"),
    "length": ("max_tokens", "length"),
    "context_length": ("model_context_window_exceeded", "length"),
    "tool_calls": ("tool_use", "tool_calls"),
    "content_filter": ("refusal", "content_filter"),
}


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_reasons_to_stop(reason: FinishReason) -> None:
    completion = Completion(parts=(TextPart(text="hi"),), reason=reason, usage=USAGE)
    assert MessageReply().render([completion], context())["stop_reason"] == REASONS[reason][0]
    assert ChatReply().render([completion], context())["choices"][0]["finish_reason"] == REASONS[reason][1]


def test_a_plain_stop_after_a_call_asks_for_the_tool() -> None:
    events: list[Event] = [
        Started(usage=USAGE),
        ToolCallStarted(index=0, id="t", name="Bash"),
        ToolCallFinished(index=0),
        Finished(reason="stop", usage=USAGE),
    ]
    assert MessageReply().render([assemble(events)], context())["stop_reason"] == "tool_use"
    assert ChatReply().render([assemble(events)], context())["choices"][0]["finish_reason"] == "tool_calls"


@settings(deadline=None)
@given(events=answers(valid_only=False))
def test_anthropic_answers_are_never_empty(events: list[Event]) -> None:
    content = MessageReply().render([assemble(events)], context())["content"]
    assert any(block["type"] == "tool_use" or block.get("text", "").strip() for block in content)
    renderer = MessageReply().stream(context())
    streamed = parse_sse(b"".join(renderer.feed(event) for event in events))
    pieces = [data["delta"].get("text", "") for name, data in streamed if name == "content_block_delta"]
    calls = [data for name, data in streamed if data.get("content_block", {}).get("type") == "tool_use"]
    assert calls or "".join(pieces).strip()


def test_an_answer_without_words_gets_a_filler_where_it_ends() -> None:
    def texts(*events: Event) -> list[str]:
        complete = [Started(usage=USAGE), *events, Finished(reason="stop", usage=USAGE)]
        content = MessageReply().render([assemble(complete)], context())["content"]
        return [block["text"] for block in content if block["type"] == "text"]

    assert texts() == [FILLER]
    assert texts(TextDelta(text="\n")) == ["\n" + FILLER]
    assert texts(TextDelta(text="\n"), ReasoningDelta(text="hm")) == ["\n", FILLER]
    assert texts(TextDelta(text=" x")) == [" x"]


@settings(deadline=None)
@given(events=answers(valid_only=False))
def test_anthropic_streams_keep_the_order_of_the_vendor(events: list[Event]) -> None:
    """message_start, then blocks one after the other, each of one kind of delta, then message_delta, message_stop."""
    renderer = MessageReply().stream(context())
    stream = parse_sse(b"".join(renderer.feed(event) for event in events))
    names = [name for name, _ in stream]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert all(name == data["type"] for name, data in stream)
    open_index, next_index = None, 0
    for name, data in stream[1:-2]:
        if name == "content_block_start":
            assert open_index is None
            assert data["index"] == next_index
            open_index, next_index = data["index"], next_index + 1
        else:
            assert data["index"] == open_index
            if name == "content_block_stop":
                open_index = None
            else:
                assert name == "content_block_delta"
    assert open_index is None


@settings(deadline=None)
@given(events=answers(valid_only=False))
def test_what_we_answer_comes_back_as_what_was_generated(events: list[Event]) -> None:
    """The whole answer, sent back as history, is the same parts again: no filler, the very text of bad arguments."""
    completion = assemble(events)
    content = as_sent(MessageReply().render([completion], context()))["content"]
    user = {"role": "user", "content": "go"}
    body = {"model": "m", "max_tokens": 1, "messages": [user, {"role": "assistant", "content": content}]}

    request = canonicalise(ANTHROPIC.parse_request(body, {}, request_id="r").request)

    spoken = [part for m in request.messages if m.role == "assistant" for part in m.parts]
    assert said(spoken) == said(completion.parts)


def said(parts: Iterable[Part]) -> tuple[str, str, list[tuple[str, str]]]:
    """(text, reasoning, calls) without pieces of white space alone, which come and go between clients."""
    texts, thoughts = [], []
    calls = []
    for part in parts:
        match part:
            case TextPart(text=text) if has_words(text):
                texts.append(text)
            case ReasoningPart(text=text) if has_words(text):
                thoughts.append(text)
            case ToolCallPart(name=name, arguments=arguments):
                calls.append((name, normal_arguments(arguments.lstrip() or "{}")))
    return "".join(texts), "".join(thoughts), calls


def test_the_signature_of_thinking_is_the_same_however_it_was_cut() -> None:
    def signature(*pieces: str) -> str:
        renderer = MessageReply().stream(context())
        events: list[Event] = [Started(usage=USAGE), *(ReasoningDelta(text=piece) for piece in pieces)]
        stream = parse_sse(b"".join(renderer.feed(event) for event in [*events, TextDelta(text="x")]))
        deltas = [data["delta"] for _, data in stream if data["type"] == "content_block_delta"]
        (found,) = [delta["signature"] for delta in deltas if delta["type"] == "signature_delta"]
        return str(found)

    assert signature("hmm") == signature("h", "", "mm") != signature("hm")


def test_message_ids_come_from_the_request() -> None:
    completion = Completion(parts=(), reason="stop", usage=USAGE)
    assert MessageReply().render([completion], context())["id"] == "msg_r1"
    assert ChatReply().render([completion], context())["id"] == "chatcmpl-r1"


SEARCHING = {"search": "blue lamps"}


@settings(deadline=None)
@given(answers())
def test_a_search_that_is_not_done_here_fails_in_the_vendors_words(events: list[Event]) -> None:
    """Streamed and whole alike, before what the model says; and it is no part of the history."""
    asked = MessageReply(**SEARCHING)
    renderer = asked.stream(context())
    body = b"".join(renderer.feed(event) for event in events)
    with anthropic_client(body).messages.stream(model="m", max_tokens=9, messages=[]) as stream:
        streamed = stream.get_final_message()
    whole = as_sent(asked.render([assemble(events)], context()))
    assert [block.type for block in streamed.content] == [block["type"] for block in whole["content"]]
    call, failure, *rest = whole["content"]
    assert (call["name"], call["input"]) == ("web_search", {"query": "blue lamps"})
    assert streamed.content[0].input == {"query": "blue lamps"}
    assert failure["tool_use_id"] == call["id"] == streamed.content[1].tool_use_id
    assert failure["content"] == {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    assert streamed.content[1].content.error_code == "unavailable"
    assert rest == as_sent(MessageReply().render([assemble(events)], context()))["content"]

    def parse(content: Any) -> tuple[Message, ...]:
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "assistant", "content": content}]}
        return ANTHROPIC.parse_request(body, {}, request_id="r").request.messages

    assert parse(whole["content"]) == parse(rest)


def test_checks_that_are_not_done_here_are_said_to_be() -> None:
    """At the end only, where Claude Code reads them; an empty event before it says nothing of them."""
    asked = MessageReply(safeguards=("dangerous_tool_use",))
    results = [{"type": "dangerous_tool_use", "status": {"type": "unsupported"}}]
    finished = Finished(reason="stop", usage=USAGE)
    renderer = asked.stream(context())
    events = parse_sse(renderer.keepalive(200.0) + renderer.feed(TextDelta(text="a")) + renderer.feed(finished))
    said = [data["delta"].get("safeguard_results") for name, data in events if name == "message_delta"]
    assert said == [None, results]
    answer = Completion(parts=(TextPart(text="a"),), reason="stop", usage=USAGE)
    assert asked.render([answer], context())["safeguard_results"] == results
    assert "safeguard_results" not in MessageReply().render([answer], context())


@settings(deadline=None)
@given(answers())
def test_filling_the_cache_answers_nothing(events: list[Event]) -> None:
    asked = MessageReply(is_warming=True)
    renderer = asked.stream(context())
    body = b"".join(renderer.feed(event) for event in events)
    assert [name for name, _ in parse_sse(body)] == ["message_start", "message_delta", "message_stop"]
    with anthropic_client(body).messages.stream(model="m", max_tokens=0, messages=[]) as stream:
        streamed = stream.get_final_message()
    whole = asked.render([assemble(events)], context())
    assert streamed.content == whole["content"] == []
    assert streamed.stop_reason == whole["stop_reason"] == "max_tokens"
    assert streamed.usage.output_tokens == whole["usage"]["output_tokens"] == 0
    assert streamed.usage.cache_read_input_tokens == whole["usage"]["cache_read_input_tokens"]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"n": 123456789012345678901234567890}',
        '{"n": -9223372036854775809, "text": "1e40"}',
        '{"x": 0.1234567890123456789}',
        '{"path": "a b", "deep": {"n": [18446744073709551616]}}',
        '{"n": 1e400, "m": [-1e400, 1.50, -0]}',
    ],
)
def test_a_whole_anthropic_message_keeps_every_digit_of_a_calls_numbers(arguments: str) -> None:
    call = ToolCallPart(id="c1", name="f", arguments=arguments)
    completion = Completion(parts=(call,), reason="tool_calls", usage=USAGE)
    body = orjson.dumps(MessageReply().render([completion], context()))
    assert f'"input":{arguments}'.encode() in body


@pytest.mark.parametrize(
    "arguments", ['{"n": 12345678901234567890', '["12345678901234567890"]', '{"n": NaN, "m": 1e999}']
)
def test_what_is_no_object_is_wrapped_whatever_its_numbers(arguments: str) -> None:
    call = ToolCallPart(id="c1", name="f", arguments=arguments)
    completion = Completion(parts=(call,), reason="tool_calls", usage=USAGE)
    (block,) = MessageReply().render([completion], context())["content"]
    assert block["input"] == {"__unparsedToolInput": {"raw": arguments, "len": len(arguments)}}
