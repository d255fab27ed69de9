"""The legal order of events, and the whole answer they spell out."""

import pytest

from shared.errors import InternalError, OverloadedError, PromptTooLongError
from shared.events import (
    Counted,
    EventOrder,
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
    assemble,
)
from shared.messages import ReasoningPart, TextPart, ToolCallPart
from shared.work import KINDS

USAGE = Usage(input_tokens=7, cached_tokens=3, output_tokens=2)


def test_assemble_merges_neighbouring_deltas_and_keeps_the_order_of_parts():
    events = [
        Progress(phase="queued"),
        Started(usage=USAGE),
        ReasoningDelta(text="I "),
        ReasoningDelta(text="think"),
        TextDelta(text="He"),
        TextDelta(text="llo", logprobs=(TokenLogprob(token="llo", logprob=-0.5),)),
        ToolCallStarted(index=0, id="a", name="Bash"),
        ToolCallDelta(index=0, arguments='{"x"'),
        ToolCallDelta(index=0, arguments=":1}"),
        ToolCallFinished(index=0),
        ToolCallStarted(index=1, id="b", name="Read"),
        ToolCallFinished(index=1, is_valid=False),
        Finished(reason="tool_calls", usage=USAGE, stop_sequence="s"),
    ]
    completion = assemble(events)
    assert (
        ReasoningPart(text="I think"),
        TextPart(text="Hello"),
        ToolCallPart(id="a", name="Bash", arguments='{"x":1}'),
        ToolCallPart(id="b", name="Read", arguments=""),
    ) == completion.parts
    assert (completion.reason, completion.usage, completion.stop_sequence) == ("tool_calls", USAGE, "s")
    assert [entry.logprob for entry in completion.logprobs] == [-0.5]


def test_assemble_leaves_out_empty_text():
    completion = assemble([Started(usage=USAGE), TextDelta(text=""), Finished(reason="stop", usage=USAGE)])
    assert completion.parts == ()


def test_assemble_raises_the_error_that_the_worker_reported():
    failed = Failed.of(PromptTooLongError.of(70000, 65536))
    with pytest.raises(PromptTooLongError, match="prompt is too long: 70000 tokens > 65536 maximum"):
        assemble([failed])


def test_assemble_refuses_a_stream_without_an_end():
    with pytest.raises(InternalError):
        assemble([Started(usage=USAGE)])


@pytest.mark.parametrize(
    "events",
    [
        [TextDelta(text="early")],
        [Started(usage=USAGE), ToolCallDelta(index=0, arguments="{}")],
        [Started(usage=USAGE), ToolCallStarted(index=0, id="a", name="n"), TextDelta(text="inside")],
        [Started(usage=USAGE), Finished(reason="stop", usage=USAGE), TextDelta(text="late")],
        [Failed.of(OverloadedError("full")), Started(usage=USAGE)],
    ],
)
def test_an_illegal_order_is_refused(events):
    order = EventOrder()
    for event in events[:-1]:
        order.feed(event)
    with pytest.raises(InternalError, match="not legal"):
        order.feed(events[-1])


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_kind_of_work_begins_with_progress_and_ends_with_its_own_event_or_a_failure(kind):
    for kinds_end in {Finished, Counted}:
        order = EventOrder(kind.begins)
        order.feed(Progress(phase="queued"))
        assert not order.has_begun
        if kind.begins == "waiting":
            order.feed(Started(usage=USAGE))
        last = Counted(input_tokens=3) if kinds_end is Counted else Finished(reason="stop", usage=USAGE)
        if kinds_end is kind.ends:
            order.feed(last)
            assert order.ended
        else:
            with pytest.raises(InternalError, match="not legal"):
                order.feed(last)
    failing = EventOrder(kind.begins)
    failing.feed(Failed.of(OverloadedError("full")))
    assert failing.ended


def test_a_failure_may_come_inside_a_tool_call():
    order = EventOrder()
    for event in (Started(usage=USAGE), ToolCallStarted(index=0, id="a", name="n"), Failed.of(OverloadedError("x"))):
        order.feed(event)
    assert order.ended
