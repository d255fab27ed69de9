"""The official SDKs make of a stream exactly what the whole answer says."""

from __future__ import annotations

from typing import Any

import anthropic
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.anthropic.render import MessageReply
from gateway.dialects.base import Reply
from gateway.dialects.openai_chat.render import ChatReply
from gateway.dialects.openai_responses.render import ResponsesReply
from gateway.dialects.openai_responses.tools import Origin
from shared.events import (
    Event,
    Failed,
    Finished,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
    assemble,
)
from tests.unit.gateway.dialects.answers import (
    REPLIES,
    answers,
    anthropic_client,
    as_sent,
    context,
    openai_client,
    parse_sse,
)

MESSAGES = [{"role": "user", "content": "hi"}]


def streamed(reply: Reply, events: list[Event], *, start_first: bool = True) -> bytes:
    renderer = reply.stream(context())
    opening = renderer.start() if start_first else b""
    return opening + b"".join(renderer.feed(event) for event in events)


def read_anthropic_stream(body: bytes) -> anthropic.types.Message:
    client = anthropic_client(body)
    with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
        return stream.get_final_message()


def read_openai_stream(body: bytes) -> Any:
    """The accumulated state, because the SDK refuses a final completion that was cut by its length."""
    client = openai_client(body)
    with client.chat.completions.stream(model="m", messages=MESSAGES, stream_options={"include_usage": True}) as stream:
        for _ in stream:
            pass
        return stream.current_completion_snapshot


@settings(deadline=None)
@given(events=answers(), start_first=st.booleans())
def test_anthropic_stream_accumulates_to_the_whole_answer(events: list[Event], start_first: bool) -> None:
    whole = as_sent(MessageReply().render([assemble(events)], context()))

    message = read_anthropic_stream(streamed(MessageReply(), events, start_first=start_first))

    assert _content(message) == whole["content"]
    assert message.stop_reason == whole["stop_reason"]
    assert message.stop_sequence == whole["stop_sequence"]
    assert message.usage.to_dict() == whole["usage"]
    assert (message.id, message.model, message.role) == (whole["id"], whole["model"], whole["role"])


@settings(deadline=None)
@given(events=answers())
def test_anthropic_whole_answer_is_read_by_the_sdk_unchanged(events: list[Event]) -> None:
    whole = as_sent(MessageReply().render([assemble(events)], context()))
    client = anthropic_client(orjson.dumps(whole), "application/json")

    message = client.messages.create(model="m", max_tokens=9, messages=MESSAGES)

    assert _content(message) == whole["content"]
    assert message.content != []


@settings(deadline=None)
@given(events=answers(valid_only=False))
def test_anthropic_arguments_that_do_not_parse_say_the_same_both_ways(events: list[Event]) -> None:
    whole = as_sent(MessageReply().render([assemble(events)], context()))
    texts: dict[int, str] = {}
    for name, data in parse_sse(streamed(MessageReply(), events)):
        if name == "content_block_start" and data["content_block"]["type"] == "tool_use":
            assert data["content_block"]["input"] == {}
            texts[data["index"]] = ""
        elif name == "content_block_delta" and data["delta"]["type"] == "input_json_delta":
            texts[data["index"]] += data["delta"]["partial_json"]

    inputs = {i: block["input"] for i, block in enumerate(whole["content"]) if block["type"] == "tool_use"}

    assert inputs.keys() == texts.keys()
    for index, text in texts.items():
        unparsed = inputs[index].get("__unparsedToolInput")
        if unparsed is None:
            assert (orjson.loads(text) if text else {}) == inputs[index]
        else:
            assert unparsed == {"raw": text, "len": len(text)}


@settings(deadline=None)
@given(events=answers(valid_only=False, logprobs=True), wants_logprobs=st.booleans(), start_first=st.booleans())
def test_openai_stream_accumulates_to_the_whole_answer(
    events: list[Event], wants_logprobs: bool, start_first: bool
) -> None:
    reply = ChatReply(include_usage=True, logprobs=wants_logprobs)
    whole = reply.render([assemble(events)], context())

    completion = read_openai_stream(streamed(reply, events, start_first=start_first))

    (choice,), (expected,) = completion.choices, whole["choices"]
    message = choice.message.to_dict()
    for key in ("role", "content", "reasoning_content"):
        assert message.get(key) == expected["message"].get(key)
    assert _calls(message) == _calls(expected["message"])
    assert choice.finish_reason == expected["finish_reason"]
    assert completion.usage.to_dict() == whole["usage"]
    logprobs = choice.logprobs.to_dict()["content"] if choice.logprobs else []
    assert logprobs == ((expected["logprobs"] or {}).get("content") or [])


@settings(deadline=None)
@given(events=answers(valid_only=False), every=st.integers(1, 3))
def test_signs_of_life_add_nothing_to_an_openai_stream(events: list[Event], every: int) -> None:
    reply, using = ChatReply(include_usage=True), context(choices=2)
    renderer = reply.stream(using)
    body = renderer.keepalive(5.0)
    for number, (choice, event) in enumerate((choice, event) for choice in (0, 1) for event in events):
        body += renderer.feed(event, choice)
        body += renderer.keepalive(5.0) if number % every == 0 else b""
    assert renderer.keepalive(5.0) == b"", "nothing follows the end"
    whole = reply.render([assemble(events)] * 2, using)

    completion = read_openai_stream(body)

    for choice, expected in zip(completion.choices, whole["choices"], strict=True):
        message = choice.message.to_dict()
        assert (message.get("content") or None) == (expected["message"]["content"] or None)
        assert message.get("reasoning_content") == expected["message"].get("reasoning_content")
        assert _calls(message) == _calls(expected["message"])
        assert choice.finish_reason == expected["finish_reason"]
    assert completion.usage.to_dict() == whole["usage"]


@settings(deadline=None)
@given(told=st.lists(answers(valid_only=False), min_size=2, max_size=3), data=st.data())
def test_openai_choices_accumulate_to_the_whole_answer_however_they_come(told: list[list[Event]], data: Any) -> None:
    reply, using = ChatReply(include_usage=True), context(choices=len(told))
    completions = [assemble(events) for events in told]
    whole = reply.render(completions, using)
    turns = data.draw(st.permutations([choice for choice, events in enumerate(told) for _ in events]))
    renderer, left = reply.stream(using), [iter(events) for events in told]

    body = renderer.start() + b"".join(renderer.feed(next(left[choice]), choice) for choice in turns)

    completion = read_openai_stream(body)
    assert [choice.index for choice in completion.choices] == [choice["index"] for choice in whole["choices"]]
    for choice, expected in zip(completion.choices, whole["choices"], strict=True):
        message = choice.message.to_dict()
        assert (message.get("content"), _calls(message)) == (
            expected["message"]["content"],
            _calls(expected["message"]),
        )
        assert choice.finish_reason == expected["finish_reason"]
    assert completion.usage.to_dict() == whole["usage"]
    assert whole["usage"]["completion_tokens"] == sum(each.usage.output_tokens for each in completions)
    assert body.count(b"data: [DONE]") == 1


@settings(deadline=None)
@given(
    events=answers(valid_only=False, logprobs=True),
    options=st.fixed_dictionaries(
        dict.fromkeys(("shows_summary", "wraps_reasoning", "logprobs", "is_summary"), st.booleans())
    ),
    every=st.integers(1, 3),
)
def test_a_responses_stream_says_what_the_whole_answer_says(
    events: list[Event], options: dict[str, bool], every: int
) -> None:
    """To the SDK, to who counts the items that are done (Codex), and to who adds up the deltas (pi); whatever kind of
    tool each call was, and however long it took."""
    origins = {"Bash": Origin(kind="custom", name="Bash"), "mcp__x.y": Origin(name="y", namespace="mcp__x")}
    reply = ResponsesReply(origins=origins, **options)
    whole = reply.render([assemble(events)], context())
    renderer = reply.stream(context())
    body = renderer.keepalive(1.0)
    for number, event in enumerate(events):
        body += renderer.feed(event) + (renderer.keepalive(1.0) if number % every == 0 else b"")
    assert renderer.keepalive(1.0) == b"", "nothing follows the end"

    told = parse_sse(body)

    assert [data["sequence_number"] for _, data in told] == list(range(len(told)))
    assert all(name == data["type"] for name, data in told)
    assert [name for name, _ in told[:2]] == ["response.created", "response.in_progress"]
    assert told[-1][0] == f"response.{whole['status']}"
    assert told[-1][1]["response"] == whole
    assert [data["item"] for name, data in told if name == "response.output_item.done"] == whole["output"]
    assert _added_up(told) == [_shown(item) for item in whole["output"]]
    with openai_client(body).responses.stream(model="m", input="hi") as stream:
        *_, last = stream
    snapshot = last.response  # type: ignore[union-attr]
    assert [_unparsed(item.to_dict()) for item in snapshot.output] == whole["output"]
    assert snapshot.usage.to_dict() == whole["usage"]


def _unparsed(item: dict[str, Any]) -> dict[str, Any]:
    """Without what the SDK makes of texts by itself."""
    bare = {key: value for key, value in item.items() if key != "parsed_arguments"}
    if item["type"] != "message":
        return bare
    return bare | {"content": [{k: v for k, v in part.items() if k != "parsed"} for part in item["content"]]}


def _added_up(told: list[tuple[str, Any]]) -> list[str]:
    """What the deltas of each item spell; no item begins before the one before it has ended."""
    texts: list[str] = []
    open_index: int | None = None
    for name, data in told:
        if name == "response.output_item.added":
            assert open_index is None
            open_index = data["output_index"]
            assert open_index == len(texts)
            texts.append("")
        elif name == "response.output_item.done":
            assert data["output_index"] == open_index
            open_index = None
        elif name.endswith(".delta"):
            assert data["output_index"] == open_index
            texts[-1] += data["delta"]
    return texts


def _shown(item: dict[str, Any]) -> str:
    match item["type"]:
        case "message" | "reasoning":
            return "".join(part["text"] for part in (item.get("content") or item.get("summary")))
        case "function_call":
            return str(item["arguments"])
        case "custom_tool_call":
            return str(item["input"])
    return ""


@settings(deadline=None)
@given(events=answers(valid_only=False))
def test_a_whole_response_is_read_by_the_sdk_unchanged(events: list[Event]) -> None:
    whole = ResponsesReply().render([assemble(events)], context())
    client = openai_client(orjson.dumps(whole), "application/json")

    assert client.responses.create(model="m", input="hi").to_dict() == whole


@settings(deadline=None)
@given(events=answers(valid_only=False))
def test_openai_whole_answer_is_read_by_the_sdk_unchanged(events: list[Event]) -> None:
    whole = ChatReply().render([assemble(events)], context())
    client = openai_client(orjson.dumps(whole), "application/json")

    completion = client.chat.completions.create(model="m", messages=MESSAGES)

    assert completion.to_dict() == whole


@pytest.mark.parametrize("name", sorted(REPLIES))
@settings(deadline=None)
@given(events=answers(valid_only=False), data=st.data())
def test_a_failure_in_mid_stream_is_an_error_to_the_sdk_never_a_normal_end(
    name: str, events: list[Event], data: st.DataObject
) -> None:
    kept = events[: data.draw(st.integers(0, len(events) - 1))]
    failure = Failed(code="worker_lost", message="the worker died")
    body = streamed(REPLIES[name](), [*kept, failure])

    events_sent = parse_sse(body)

    last = events_sent[-1][1]
    error = last["response"]["error"] if name == "openai_responses" else last["error"]
    assert error["message"].startswith("the worker died")
    assert not any(event in ("message_stop", "response.completed") for event, _ in events_sent)
    assert "[DONE]" not in [data for _, data in events_sent]


def test_sdks_raise_the_error_that_ends_a_stream() -> None:
    events: list[Event] = [
        Started(usage=Usage(input_tokens=3)),
        TextDelta(text="hel"),
        Failed(code="internal", message="oh"),
    ]

    with pytest.raises(Exception, match="oh"):
        read_anthropic_stream(streamed(MessageReply(), events))
    with pytest.raises(Exception, match="oh"):
        read_openai_stream(streamed(ChatReply(include_usage=True), events))


def test_white_space_before_arguments_does_not_stop_the_sdk() -> None:
    """The SDK parses after every delta, and white space alone is no JSON."""
    events = [
        Started(usage=Usage(input_tokens=3)),
        ToolCallStarted(index=0, id="t", name="Bash"),
        ToolCallDelta(index=0, arguments="\n  "),
        ToolCallDelta(index=0, arguments=' {"command": "ls"}'),
        ToolCallFinished(index=0),
        Finished(reason="tool_calls", usage=Usage(input_tokens=3, output_tokens=2)),
    ]

    message = read_anthropic_stream(streamed(MessageReply(), events))

    assert _content(message) == [{"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}]


def _content(message: anthropic.types.Message) -> list[dict[str, Any]]:
    return [block.to_dict() for block in message.content]


def _calls(message: dict[str, Any]) -> list[tuple[str, str, str]]:
    calls = message.get("tool_calls") or []
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]
