"""What a conversation's next message adds to the prompt: the difference of two renderings.

The longer one need not begin with the shorter. A template may write the end of its last message otherwise than when
others follow (a line break more, a closing marker less), or drop the reasoning of earlier answers once the user speaks
again. The prompt that was answered holds the end as it was then, and that stays: what is added begins behind it.
"""

from __future__ import annotations

import json

from worker.prompt.markers import Markers

_SLACK = 16
_CONTEXTS = (512, 64, 16)


class NotLocalError(Exception):
    """The template renders a unit differently in a small conversation."""


def added(short: str, long: str) -> str:
    """Raises `NotLocalError` when `long` does not begin with `short`."""
    if not long.startswith(short):
        raise NotLocalError
    return long[len(short) :]


def grown(short: str, long: str, anchor: str, markers: Markers) -> str:
    """What `long` has behind the end of `short`. `anchor` is in both what the last message of `short` says: what comes
    before it may differ. Raises `NotLocalError` when it is not there."""
    if long.startswith(short):
        return long[len(short) :]
    anchor = next((form for form in _forms(anchor) if form in short and form in long), "")
    if not anchor:
        raise NotLocalError
    ending = short.rpartition(anchor)[2]
    rest = long[_position(short, long, anchor) :]
    if rest.startswith(ending):
        return rest[len(ending) :]
    at = markers.common(ending, rest)
    left = ending[at:]
    # The same ending behind something more (a line break), or none of it.
    found = rest.find(left, at, at + len(left) + _SLACK)
    return rest[found + len(left) :] if found >= 0 else rest[at:]


def _forms(anchor: str) -> tuple[str, ...]:
    """As a template may show a text: as it is, or as JSON."""
    return (anchor, json.dumps(anchor, ensure_ascii=False)[1:-1]) if anchor else ()


def _position(short: str, long: str, anchor: str) -> int:
    """Where the last anchor of `short` ends in `long`: found by as much of what stands before it as both have."""
    end = short.rindex(anchor) + len(anchor)
    for length in (*_CONTEXTS, len(anchor)):
        needle = short[max(0, end - max(length, len(anchor))) : end]
        at = -1
        for _ in range(short.count(needle, 0, end)):
            at = long.find(needle, at + 1)
        if at >= 0:
            return at + len(needle)
    raise NotLocalError
