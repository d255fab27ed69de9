"""A reader that is far behind is told the same in fewer pieces."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.readers import MERGE_AT, EventReader
from shared.events import (
    Event,
    Finished,
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
from shared.merging import merged

STARTED = Started(usage=Usage(input_tokens=1))
FINISHED = Finished(reason="stop", usage=Usage(input_tokens=1, output_tokens=9))
words = st.text(max_size=4)
pieces = st.one_of(
    st.builds(lambda text: (TextDelta(text=text),), words),
    st.builds(lambda text: (ReasoningDelta(text=text),), words),
    st.builds(lambda text: (TextDelta(text=text, logprobs=(TokenLogprob(token=text, logprob=0.0),)),), words),
    st.lists(words, max_size=4).map(
        lambda texts: (
            ToolCallStarted(index=0, id="c", name="f"),
            *(ToolCallDelta(index=0, arguments=text) for text in texts),
            ToolCallFinished(index=0),
        )
    ),
)


@given(st.lists(pieces, max_size=20))
def test_the_answer_is_the_same(parts: list[tuple[Event, ...]]) -> None:
    events = [STARTED, *(event for part in parts for event in part), FINISHED]
    joined = merged(events)
    assert assemble(joined) == assemble(events)
    assert len(joined) <= len(events)


def test_a_client_that_does_not_read_costs_its_text_and_no_more() -> None:
    reader = EventReader((STARTED,))
    for number in range(100_000):
        reader.push((TextDelta(text=f"{number} "),))
    reader.push((FINISHED,))
    events = asyncio.run(reader.wait(1))
    assert len(events) <= MERGE_AT
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).split() == [
        str(number) for number in range(100_000)
    ]
