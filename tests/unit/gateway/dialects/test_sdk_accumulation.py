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
from tests.unit.gateway.dialects.answers import REPLIES, answers, anthropic_client, context, openai_client, parse_sse

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
    whole = MessageReply().render([assemble(events)], context())

    message = read_anthropic_stream(streamed(MessageReply(), events, start_first=start_first))

    assert _content(message) == whole["content"]
    assert message.stop_reason == whole["stop_reason"]
    assert message.stop_sequence == whole["stop_sequence"]
    assert message.usage.to_dict() == whole["usage"]
    assert (message.id, message.model, message.role) == (whole["id"], whole["model"], whole["role"])


@settings(deadline=None)
@given(events=answers())
def test_anthropic_whole_answer_is_read_by_the_sdk_unchanged(events: list[Event]) -> None:
    whole = MessageReply().render([assemble(events)], context())
    client = anthropic_client(orjson.dumps(whole), "application/json")

    message = client.messages.create(model="m", max_tokens=9, messages=MESSAGES)

    assert _content(message) == whole["content"]
    assert message.content != []


@settings(deadline=None)
@given(events=answers(valid_only=False))
def test_anthropic_arguments_that_do_not_parse_say_the_same_both_ways(events: list[Event]) -> None:
    whole = MessageReply().render([assemble(events)], context())
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

    assert events_sent[-1][1]["error"]["message"] == "the worker died"
    assert not any(event in ("message_stop",) for event, _ in events_sent)
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
