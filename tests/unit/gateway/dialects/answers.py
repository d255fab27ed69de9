"""Legal event sequences for Hypothesis, and the official SDKs as readers of the bytes that renderers make of them."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import openai
import orjson
from hypothesis import strategies as st

from gateway.dialects.anthropic.render import MessageReply
from gateway.dialects.base import RenderContext
from gateway.dialects.openai_chat.render import ChatReply
from gateway.dialects.openai_completions.render import CompletionsReply
from gateway.dialects.openai_responses.render import ResponsesReply
from shared.events import (
    Event,
    Finished,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, json_values, max_size=3)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt = draw(st.integers(1, 10_000))
    output = draw(st.integers(0, 1000))
    return Usage(
        input_tokens=prompt,
        cached_tokens=draw(st.integers(0, prompt - 1)),
        output_tokens=output,
        reasoning_tokens=draw(st.integers(0, output)),
    )


@st.composite
def splits(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, some of them empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def calls(draw: st.DrawFn, index: int, *, valid_only: bool) -> list[Event]:
    """One tool call whose arguments are a JSON object in some layout, or are not."""
    value = draw(objects)
    arguments = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 0, 2])))
    arguments = draw(st.sampled_from(["", " ", "\n\t"])) + arguments
    is_valid = valid_only or draw(st.booleans())
    if not is_valid:
        arguments = draw(
            st.sampled_from(["{", "{]", "[1]", "null", "{'a': 1}", '{"a": tru', "rm -rf", '{"a":"b'])
        ) + draw(texts)
    return [
        ToolCallStarted(index=index, id=f"toolu_{index:04d}", name=draw(st.sampled_from(["Bash", "Read", "mcp__x.y"]))),
        *(ToolCallDelta(index=index, arguments=piece) for piece in draw(splits(arguments))),
        ToolCallFinished(index=index, is_valid=is_valid),
    ]


@st.composite
def answers(draw: st.DrawFn, *, valid_only: bool = True, logprobs: bool = False) -> list[Event]:
    """Any legal sequence that ends in `Finished`."""
    usage = draw(usages())
    events: list[Event] = draw(st.lists(st.just(Progress(phase="queued")), max_size=2))
    events.append(Started(usage=usage))
    events += draw(st.lists(st.builds(Progress, phase=st.just("prefill"), total_tokens=st.integers(0, 9)), max_size=2))
    index = 0
    for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "call", "progress"]), max_size=7)):
        match kind:
            case "text":
                text = draw(texts | st.sampled_from(["\n", " ", "word"]))
                chosen = (
                    (TokenLogprob(token=text, logprob=-0.5, token_bytes=text.encode()),) if logprobs and text else ()
                )
                events.append(TextDelta(text=text, logprobs=chosen))
            case "reasoning":
                events.append(ReasoningDelta(text=draw(texts)))
            case "call":
                events += draw(calls(index, valid_only=valid_only))
                index += 1
            case _:
                events.append(Progress(phase="prefill"))
    reason = "tool_calls" if index else draw(st.sampled_from(["stop", "length", "stop_sequence", "context_length"]))
    stop_sequence = "END" if reason == "stop_sequence" else ""
    events.append(Finished(reason=reason, usage=usage, stop_sequence=stop_sequence))
    return events


# How a request of each dialect may want its answer; made without arguments it wants nothing special.
REPLIES: dict[str, type[MessageReply | ChatReply | CompletionsReply | ResponsesReply]] = {
    "anthropic": MessageReply,
    "openai_chat": ChatReply,
    "openai_completions": CompletionsReply,
    "openai_responses": ResponsesReply,
}


def context(*, choices: int = 1) -> RenderContext:
    return RenderContext(request_id="r1", model="some-model", created_s=1_700_000_000, choices=choices)


def _transport(body: bytes, content_type: str) -> httpx2.MockTransport:
    """The network's place: it answers every request with these bytes."""
    return httpx2.MockTransport(
        lambda request: httpx2.Response(200, content=body, headers={"content-type": content_type})
    )


def anthropic_client(body: bytes, content_type: str = "text/event-stream") -> anthropic.Anthropic:
    http = anthropic.DefaultHttpxClient(transport=_transport(body, content_type))
    return anthropic.Anthropic(api_key="k", base_url="http://test", http_client=http, max_retries=0)


def openai_client(body: bytes, content_type: str = "text/event-stream") -> openai.OpenAI:
    http = openai.DefaultHttpxClient(transport=_transport(body, content_type))
    return openai.OpenAI(api_key="k", base_url="http://test/v1", http_client=http, max_retries=0)


def as_sent(rendered: Any) -> Any:
    """A whole answer as its client reads it."""
    return orjson.loads(orjson.dumps(rendered))


def parse_sse(body: bytes) -> list[tuple[str, Any]]:
    """(event name or "", data) of every event; raises when the bytes are no well-formed stream."""
    assert body == b"" or body.endswith(b"\n\n")
    events = []
    for block in body.split(b"\n\n")[:-1]:
        lines = block.decode().split("\n")
        if lines[0].startswith(":"):
            assert len(lines) == 1
            continue
        name = ""
        if lines[0].startswith("event: "):
            name = lines.pop(0).removeprefix("event: ")
        (data,) = lines
        text = data.removeprefix("data: ")
        assert text != data
        events.append((name, text if text == "[DONE]" else json.loads(text)))
    return events
