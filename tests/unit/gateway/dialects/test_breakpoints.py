"""`cache_control` is counted as the vendor counts: written, read and the rest are the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from gateway.dialects.anthropic.breakpoints import NONE, Breakpoints, asked_breakpoints
from gateway.dialects.anthropic.parse import parse_request
from gateway.dialects.anthropic.render import render_usage
from shared.events import Completion, Finished, Progress, Started, Usage
from shared.messages import TextPart
from tests.unit.gateway.dialects.answers import context, parse_sse

_FIVE, _HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


def block(text: str, mark: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({} if mark is None else {"cache_control": mark})


def body(*content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": list(content)}], **more}


def told(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """(written, read, the rest)."""
    kept = usage["cache_creation"]
    assert usage["cache_creation_input_tokens"] == sum(kept.values())
    return usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"], usage["input_tokens"]


@pytest.mark.parametrize("asked", [body("hi"), body(block("hi")), body(block("hi", None), cache_control=None)])
def test_who_asks_for_no_cache_writes_none(asked: dict[str, Any]) -> None:
    assert asked_breakpoints(asked) == NONE
    assert told(render_usage(Usage(input_tokens=100, cached_tokens=30))) == (0, 30, 70)


_CLOSING = [
    body(block("hi"), block("there", _FIVE)),
    body(block("hi"), cache_control=_FIVE),
    body(block("first", _FIVE), block("last", _FIVE), system=[block("sys", _FIVE)]),
    body({"type": "tool_result", "tool_use_id": "t", "content": [block("out", _FIVE)]}),
]


@pytest.mark.parametrize("asked", _CLOSING)
def test_a_breakpoint_at_the_end_takes_the_whole_prompt_but_what_is_always_computed(asked: dict[str, Any]) -> None:
    points = asked_breakpoints(asked)
    assert told(render_usage(Usage(input_tokens=100, cached_tokens=0), points)) == (99, 0, 1)
    assert told(render_usage(Usage(input_tokens=100, cached_tokens=60), points)) == (39, 60, 1)
    assert told(render_usage(Usage(input_tokens=100, cached_tokens=99), points)) == (0, 99, 1)


def test_a_breakpoint_further_ahead_takes_its_share_of_the_text() -> None:
    asked = body("x" * 1000, system=[block("y" * 3000, _FIVE)])
    written, read, rest = told(render_usage(Usage(input_tokens=1000), asked_breakpoints(asked)))
    assert (read, written + rest) == (0, 1000)
    assert 700 < written < 800
    tools = [{"name": "t", "input_schema": {}, "description": "z" * 4000, "cache_control": _FIVE}]
    written, *_ = told(render_usage(Usage(input_tokens=1000), asked_breakpoints(body("x" * 1000, tools=tools))))
    assert 750 < written < 850


def test_what_was_read_beyond_the_last_breakpoint_is_no_less_read() -> None:
    points = Breakpoints(share=0.5)
    assert told(render_usage(Usage(input_tokens=100, cached_tokens=80), points)) == (0, 80, 20)


def test_what_is_to_be_kept_for_an_hour_is_told_apart() -> None:
    usage = render_usage(Usage(input_tokens=1000, cached_tokens=100), Breakpoints(share=0.9, hour_share=0.4))
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 300}
    assert told(usage) == (800, 100, 100)
    points = asked_breakpoints(body(block("x" * 1000, _FIVE), system=[block("y" * 1000, _HOUR)]))
    assert points.share == 1
    assert 0.45 < points.hour_share < 0.55
    assert asked_breakpoints(body(block("x", _HOUR))) == Breakpoints(1.0, 1.0)


@pytest.mark.parametrize("counted", [Usage(), Usage(input_tokens=None, cached_tokens=None), Usage(input_tokens=1)])
def test_a_prompt_that_nobody_counted_has_nothing_written(counted: Usage) -> None:
    written, read, rest = told(render_usage(counted, Breakpoints(1.0, 1.0)))
    assert (written, read, rest) == (0, 0, counted.input_tokens or 0)


def test_both_forms_of_an_answer_tell_it_and_a_stream_once_it_is_known() -> None:
    """Clients keep a figure of the opening where the end has a 0."""
    reply = parse_request(body(block("hi", _FIVE)), {}, request_id="r").reply
    usage = Usage(input_tokens=100, cached_tokens=60, output_tokens=1)
    whole = reply.render([Completion(parts=(TextPart(text="x"),), reason="stop", usage=usage)], context())
    assert told(whole["usage"]) == (39, 60, 1)
    for opening, expected in ((Progress(phase="prefill", total_tokens=100), (0, 0, 100)), (None, (39, 60, 1))):
        stream = reply.stream(context())
        sent = stream.feed(opening) if opening is not None else b""
        sent += stream.feed(Started(usage=usage)) + stream.feed(Finished(reason="stop", usage=usage))
        events = parse_sse(sent)
        assert told(dict(events)["message_start"]["message"]["usage"]) == expected
        assert told(dict(events)["message_delta"]["usage"]) == (39, 60, 1)


def test_the_mark_travels_to_no_model() -> None:
    request = parse_request(body(block("hi", _FIVE)), {}, request_id="r").request
    assert b"ephemeral" not in orjson.dumps(str(request.messages))
