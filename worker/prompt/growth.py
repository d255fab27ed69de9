"""What a conversation's next message adds to the prompt: the difference of two renderings.

The longer one need not begin with the shorter. A template may write the end of its last message otherwise than when
others follow (a line break more, a closing marker less), or drop the reasoning of earlier answers once the user speaks
again. The prompt that was answered holds the end as it was then, and that stays: what is added begins behind it.
"""

from __future__ import annotations

from worker.prompt.markers import Markers

_SLACK = 16


class NotLocalError(Exception):
    """The template renders a unit differently in a small conversation."""


def added(short: str, long: str) -> str:
    """Raises `NotLocalError` when `long` does not begin with `short`."""
    if not long.startswith(short):
        raise NotLocalError
    return long[len(short) :]


def grown(short: str, long: str, mark: str, markers: Markers) -> str:
    """What `long` has behind the end of `short`, whose last message says `mark` and nothing else: what comes before it
    may differ. Raises `NotLocalError` when it is not there."""
    if short.count(mark) != 1 or long.count(mark) != 1:
        raise NotLocalError
    ending, rest = short.partition(mark)[2], long.partition(mark)[2]
    at = markers.common(ending, rest)
    left = ending[at:]
    # The same ending behind something more (a line break), or none of it.
    found = rest.find(left, at, at + len(left) + _SLACK)
    return rest[found + len(left) :] if found >= 0 else rest[at:]
