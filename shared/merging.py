"""Joins what was said piece by piece, for a reader that is far behind or comes late: the same text in fewer events;
and what it takes to keep that. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from shared.events import Event, ReasoningDelta, Relayed, TextDelta, ToolCallDelta

_EVENT_BYTES = 150  # an event and its text without characters
_LOGPROB_BYTES = 250


def merged(events: Iterable[Event]) -> list[Event]:
    """Neighbours of one kind become one; what carries log probabilities stays as it is, token by token."""
    found: list[Event] = []
    for key, group in groupby(events, _key):
        pieces = list(group)
        found += pieces if key is None or len(pieces) == 1 else [_joined(pieces)]
    return found


def _key(event: Event) -> tuple[type, int] | None:
    match event:
        case TextDelta(logprobs=()) | ReasoningDelta():
            return type(event), 0
        case ToolCallDelta(index=index):
            return ToolCallDelta, index
        case Relayed() if not event.headers:
            return Relayed, 0
    return None


def _joined(pieces: list[Event]) -> Event:
    """Of one key."""
    first = pieces[0]
    if isinstance(first, ToolCallDelta):
        arguments = "".join(piece.arguments for piece in pieces if isinstance(piece, ToolCallDelta))
        return ToolCallDelta(index=first.index, arguments=arguments)
    if isinstance(first, Relayed):
        return Relayed(data=b"".join(piece.data for piece in pieces if isinstance(piece, Relayed)))
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta | ReasoningDelta))
    return TextDelta(text=text) if isinstance(first, TextDelta) else ReasoningDelta(text=text)


def size_bytes(event: Event) -> int:
    """Roughly what it takes to keep the event."""
    if isinstance(event, TextDelta):
        logprobs = sum(1 + len(logprob.top) for logprob in event.logprobs)
        return _EVENT_BYTES + len(event.text) + _LOGPROB_BYTES * logprobs
    if isinstance(event, ReasoningDelta):
        return _EVENT_BYTES + len(event.text)
    if isinstance(event, Relayed):
        return _EVENT_BYTES + len(event.data)
    return _EVENT_BYTES + (len(event.arguments) if isinstance(event, ToolCallDelta) else 0)
