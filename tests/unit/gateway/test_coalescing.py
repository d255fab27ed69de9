"""The same request again is found while it runs; what only looks like it is not."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from gateway.dispatch.coalescing import Attachables, may_share
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.facts import Placed
from shared import wire
from shared.errors import OverloadedError
from shared.messages import Message, TextPart
from shared.request import GenerateRequest, SamplingParams, ToolDefinition
from shared.work import Generate


def request(request_id: str = "r1", *, words: str = "hello", **fields: object) -> GenerateRequest:
    message = Message(role="user", parts=(TextPart(text=words),))
    values = {"model": "m", "messages": (message,), "session": "s"} | fields
    return GenerateRequest(id=request_id, **values)  # type: ignore[arg-type]


def running(asked: GenerateRequest, attachables: Attachables) -> Dispatch:
    stream = Dispatch(Generate(request=asked), place=Placed(lane="interactive"), deadline_s=time.time() + 60)
    attachables.add(stream)
    return stream


def test_the_same_request_under_another_id_is_found() -> None:
    attachables = Attachables()
    stream = running(request("r1"), attachables)
    assert attachables.find(request("r2")) is stream


@pytest.mark.parametrize(
    "other",
    [
        request("r2", words="hello!"),
        request("r2", model="another"),
        request("r2", session="another"),
        request("r2", tenant="another"),
        request("r2", sampling=SamplingParams(seed=1)),
        request("r2", tools=(ToolDefinition(name="t"),)),
        request("r2", response_schema={}),
        request("r2", messages=(*request().messages, *request().messages)),
        request("r2", messages=()),
    ],
)
def test_another_request_is_not(other: GenerateRequest) -> None:
    attachables = Attachables()
    running(request("r1"), attachables)
    assert attachables.find(other) is None


def test_requests_whose_conversations_are_packed_are_told_apart_by_them() -> None:
    attachables = Attachables()
    stream = running(wire.pack(request("r1")), attachables)
    assert attachables.find(wire.pack(request("r2"))) is stream
    assert attachables.find(wire.pack(request("r2", words="hello!"))) is None
    assert attachables.find(wire.pack(request("r2", tools=(ToolDefinition(name="t"),)))) is None
    assert attachables.find(wire.pack(request("r2", sampling=SamplingParams(seed=1)))) is None


def test_an_answer_that_is_over_is_not_found() -> None:
    attachables = Attachables()
    stream = running(request("r1"), attachables)
    stream.fail(OverloadedError("over"))
    assert attachables.find(request("r2")) is None


def test_nothing_is_kept_of_what_has_ended() -> None:
    attachables = Attachables()
    streams = [running(request(f"r{number}"), attachables) for number in range(3)]
    attachables.remove(streams[1])
    assert attachables.find(request("r9")) is streams[0]
    attachables.remove(streams[0])
    assert attachables.find(request("r9")) is streams[2]
    attachables.remove(streams[2])
    assert attachables.find(request("r9")) is None
    assert not attachables._running
    assert not attachables._keys


def test_answers_are_shared_where_chance_does_not_decide_or_the_client_asks_again() -> None:
    def shares(is_repeated: bool = False, **sampling: object) -> bool:
        asked = replace(request(), sampling=SamplingParams(**sampling))  # type: ignore[arg-type]
        return may_share(asked, is_repeated=is_repeated)

    assert shares(temperature=0.0)
    assert shares(temperature=1.0, seed=7)
    assert not shares(temperature=0.7)
    assert not shares()
    assert shares(temperature=0.7, is_repeated=True)
