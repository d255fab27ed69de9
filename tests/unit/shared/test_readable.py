"""What a reader that knows fewer codes is told is true, and all of it can be read."""

from __future__ import annotations

import pytest

from shared import wire
from shared.events import (
    INCIDENTAL,
    Event,
    Failed,
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
from shared.messages import ImagePart, Message, TextPart
from shared.readable import readable_events, unread_by, unread_in, without
from shared.registry import Reader
from shared.request import GenerateRequest
from shared.work import Envelope, Generate

ANSWER: tuple[Event, ...] = (
    Progress(phase="prefill", done_tokens=1, total_tokens=2),
    Started(usage=Usage(input_tokens=2)),
    ReasoningDelta(text="hm"),
    TextDelta(
        text="a", logprobs=(TokenLogprob(token="a", logprob=-1.0, top=(TokenLogprob(token="b", logprob=-2.0),)),)
    ),
    ToolCallStarted(index=0, id="t", name="read"),
    ToolCallDelta(index=0, arguments="{}"),
    ToolCallFinished(index=0),
    Finished(reason="tool_calls", usage=Usage(input_tokens=2, output_tokens=3)),
)
KINDS = sorted({type(event) for event in ANSWER} | {Usage, TokenLogprob}, key=lambda cls: cls.__name__)


def unread(*classes: type) -> frozenset[int]:
    return unread_by(tuple(wire.CODES - {wire.code_of(cls) for cls in classes}))


def test_a_reader_of_this_revision_and_one_that_names_no_codes_read_everything() -> None:
    assert unread_by(wire.READER.codes) == unread_by(()) == frozenset()


def test_a_reader_may_know_codes_that_are_new_here() -> None:
    assert unread_by((*wire.READER.codes, 127)) == frozenset()


@pytest.mark.parametrize("cls", KINDS)
def test_whatever_a_reader_lacks_it_is_sent_nothing_that_it_cannot_read(cls: type) -> None:
    codes = unread(cls)
    told = readable_events(ANSWER, codes)
    assert wire.codes_in(wire.encode(told)).isdisjoint(codes)


@pytest.mark.parametrize("cls", [cls for cls in KINDS if cls in INCIDENTAL])
def test_what_the_answer_stands_without_is_left_out(cls: type) -> None:
    assert readable_events(ANSWER, unread(cls)) == tuple(event for event in ANSWER if type(event) is not cls)


def test_the_text_of_an_answer_arrives_where_its_logprobs_cannot_be_read() -> None:
    told = readable_events(ANSWER, unread(TokenLogprob))
    assert [event for event in told if isinstance(event, TextDelta)] == [TextDelta(text="a")]
    assert len(told) == len(ANSWER)


@pytest.mark.parametrize("cls", [cls for cls in KINDS if cls not in (*INCIDENTAL, TokenLogprob)])
def test_an_answer_ends_with_an_error_where_it_cannot_be_told(cls: type) -> None:
    """A call or an end that is missing would make another answer of it."""
    *before, last = readable_events(ANSWER, unread(cls))
    assert isinstance(last, Failed)
    assert last.code == "wire"
    assert "older" in last.message
    assert tuple(before) == ANSWER[: len(before)]


def test_a_field_that_may_be_missing_has_its_default() -> None:
    request = GenerateRequest(id="r", model="m", messages=(Message(role="user", parts=(TextPart(text="hi"),)),))
    assert without(request, unread(Usage)) is request
    assert without(request, unread(TextPart)).messages[0].parts == ()
    assert without(request, unread(Message)).messages == ()


@pytest.mark.parametrize("pack", [wire.pack, lambda request: request])
def test_what_a_request_needs_of_its_reader_is_known_from_its_bytes(pack: object) -> None:
    image = ImagePart(data="iVBO", media_type="image/png")
    request = GenerateRequest(id="r", model="m", messages=(Message(role="user", parts=(TextPart(text="hi"), image)),))
    message = wire.encode(Envelope(work=Generate(request=pack(request)), gateway="gw"))  # type: ignore[operator]
    without_images = tuple(wire.CODES - {wire.code_of(ImagePart)})
    assert unread_in(message, Reader(versions=(3,), codes=without_images)) == ("ImagePart",)
    assert unread_in(message, wire.READER) == ()
