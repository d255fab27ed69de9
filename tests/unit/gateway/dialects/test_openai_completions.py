"""The Completions dialect: what its bodies ask for, and what its answers say."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings

from gateway.dialects.openai_completions.render import CompletionsReply
from gateway.dialects.registry import OPENAI_COMPLETIONS
from gateway.intake.reading import Asked, read_request
from shared.errors import InvalidRequestError
from shared.events import (
    Completion,
    Event,
    Finished,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
    assemble,
)
from shared.messages import TextPart
from shared.request import GenerateRequest, PackedRequest
from tests.unit.gateway.dialects.answers import answers, as_sent, context, openai_client, parse_sse

USAGE = Usage(input_tokens=7, cached_tokens=2, output_tokens=3)


def parse(**fields: Any) -> Any:
    body = {"model": "m", "prompt": "def f():", **fields}
    return OPENAI_COMPLETIONS.parse_request(body, {}, request_id="r")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("one", [("one", ())]),
        (["one"], [("one", ())]),
        (["one", "two"], [("one", ()), ("two", ())]),
        ([5, 6, 7], [("", (5, 6, 7))]),
        ([[5, 6], [7]], [("", (5, 6)), ("", (7,))]),
        (["one", [7]], [("one", ()), ("", (7,))]),
    ],
)
def test_a_prompt_is_a_text_ids_or_several_of_them(prompt: Any, expected: list[Any]) -> None:
    parsed = parse(prompt=prompt)
    requests = [parsed.request, *parsed.others]
    assert [(request.prompt, request.prompt_tokens) for request in requests] == expected
    assert len({request.id for request in requests}) == len(requests)
    assert parsed.answers == len(requests)
    assert all(request.messages == () and request.is_raw for request in requests)


def test_what_is_not_said_is_what_the_api_takes_for_it() -> None:
    parsed = parse()
    assert parsed.request.sampling.max_tokens == 16
    assert (parsed.stream, parsed.choices, parsed.request.sampling.top_logprobs) == (False, 1, None)


def test_no_limit_can_be_asked_for() -> None:
    assert parse(max_tokens=-1).request.sampling.max_tokens is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [1, -2]}, "prompt[1]"),
        ({"prompt": [1, 1 << 40]}, "prompt[1]"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": ["a"] * 49}, "prompt"),
        ({"n": 49}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 21}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"echo": True, "prompt": [1]}, "echo"),
        ({"suffix": "x", "prompt": [1]}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"temperature": 2.5}, "temperature"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**fields)
    assert caught.value.details["param"] == param


def test_what_old_clients_send_without_meaning_it_is_served() -> None:
    parsed = parse(best_of=0, suffix=None, logprobs=None, stop=None, echo=None, user="u", n=None, stream_options=None)
    assert (parsed.choices, parsed.request.user) == (1, "u")


def test_every_prompt_of_a_batch_is_ready_to_travel() -> None:
    body = b'{"model": "m", "prompt": ["first prompt", "second prompt"]}'
    parsed = read_request(OPENAI_COMPLETIONS, Asked(headers={}, request_id="r"), body, packing=True)
    for request in (parsed.request, *parsed.others):
        assert isinstance(request, PackedRequest)
        assert request.packed.chain.head_bytes == len(request.prompt)


def request_of(**fields: Any) -> GenerateRequest:
    return GenerateRequest(id="r", model="m", messages=(), **fields)


def test_raw_prompts_are_told_apart_by_everything_in_them() -> None:
    texts = {
        request_of(prompt="a").raw_text,
        request_of(prompt_tokens=(1, 2)).raw_text,
        request_of(prompt_tokens=(12,)).raw_text,
        request_of(prompt="a", suffix="b").raw_text,
    }
    assert len(texts) == 4


# --- answers --------------------------------------------------------------------------------------------------------


def completion(text: str, *logprobs: float, **fields: Any) -> Completion:
    items = tuple(TokenLogprob(token="t", logprob=value) for value in logprobs)
    fields = {"reason": "stop", "usage": USAGE} | fields
    return Completion(parts=(TextPart(text=text),), logprobs=items, **fields)


def test_each_prompt_has_its_choices_in_order_and_counts_once() -> None:
    reply = CompletionsReply(prompts=2, choices=2)
    answer = reply.render([completion(text) for text in ("a1", "a2", "b1", "b2")], context(choices=4))
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "a1"),
        (1, "a2"),
        (2, "b1"),
        (3, "b2"),
    ]
    assert answer["usage"]["prompt_tokens"] == 2 * 7
    assert answer["usage"]["completion_tokens"] == 4 * 3
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 2 * 2


def test_the_likeliest_of_many_are_given_and_all_are_counted() -> None:
    reply = CompletionsReply(choices=1)
    candidates = [completion("bad", -3.0, -1.0), completion("best", -0.1), completion("good", -1.0, -0.5)]
    answer = reply.render(candidates, context(choices=3))
    assert [choice["text"] for choice in answer["choices"]] == ["best"]
    assert answer["usage"]["completion_tokens"] == 9


def test_the_prompt_stands_before_each_of_its_answers_when_it_is_asked_for() -> None:
    reply = CompletionsReply(prompts=2, choices=1, echo=("one ", "two "))
    answer = reply.render([completion("1"), completion("2")], context(choices=2))
    assert [choice["text"] for choice in answer["choices"]] == ["one 1", "two 2"]
    opening = parse_sse(reply.stream(context(choices=2)).start())
    assert [event["choices"][0]["text"] for _, event in opening] == ["one ", "two "]


def test_logprobs_are_columns_whose_offsets_go_on_through_a_stream() -> None:
    def delta(text: str, top: str) -> TextDelta:
        alternative = TokenLogprob(token=top, logprob=float("-inf"))
        return TextDelta(text=text, logprobs=(TokenLogprob(token=text, logprob=-0.5, top=(alternative,)),))

    events: list[Event] = [
        Started(usage=USAGE),
        delta("ab", "x"),
        delta("c", "y"),
        Finished(reason="stop", usage=USAGE),
    ]
    reply = CompletionsReply(logprobs=True)
    whole = reply.render([assemble(events)], context())["choices"][0]["logprobs"]
    assert whole == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"ab": -0.5, "x": -9999.0}, {"c": -0.5, "y": -9999.0}],
        "text_offset": [0, 2],
    }
    stream = reply.stream(context())
    chunks = [data for event in events for _, data in parse_sse(stream.feed(event)) if data != "[DONE]"]
    tables = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert {name: list(chain.from_iterable(table[name] for table in tables)) for name in whole} == whole


@settings(deadline=None)
@given(events=answers(logprobs=True))
def test_the_sdk_reads_the_same_from_a_stream_as_from_the_whole_answer(events: list[Event]) -> None:
    reply = CompletionsReply(include_usage=True, logprobs=True, echo=("before ",))
    whole = as_sent(reply.render([assemble(events)], context()))
    renderer = reply.stream(context())
    body = renderer.start() + b"".join(renderer.feed(event) for event in events)
    chunks = list(openai_client(body).completions.create(model="m", prompt="p", stream=True))
    said = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.text for choice in said) == whole["choices"][0]["text"]
    assert said[-1].finish_reason == whole["choices"][0]["finish_reason"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.to_dict() == whole["usage"]


def test_the_answer_ends_with_the_last_of_its_choices() -> None:
    stream = CompletionsReply(prompts=2).stream(context(choices=2))
    finished = Finished(reason="length", usage=USAGE)
    assert b"[DONE]" not in stream.feed(finished, 1)
    waiting = parse_sse(stream.keepalive(10.0))
    assert [event["choices"][0]["index"] for _, event in waiting] == [0], "whoever has ended says no more"
    assert b"[DONE]" in stream.feed(finished, 0)
