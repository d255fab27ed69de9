"""What windows ask of the units before them, each found once: a thousand looks back over a thousand units are many.

Only what is asked for is looked at, since a unit's messages are built when they are first read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from worker.prompt.unit import Unit

_REMINDER_OPEN, _REMINDER_CLOSE = "<system-reminder>", "</system-reminder>"


class Past:
    """Of one conversation, for one thread."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self._speakers: dict[int, int] = {}  # end -> index
        self._calls = {0: 0}  # end -> number
        self._first: list[Mapping[str, Any]] = []
        self._made = (call for unit in units for call in _calls_of(unit))

    def speaker(self, end: int) -> Unit | None:
        """The last unit before the one at `end` with words of the user's own."""
        at, found = end, self._speakers
        while at > 0 and at not in found and not has_own_words(self._units[at - 1]):
            at -= 1
        found[end] = found[at] if at in found else at - 1
        return self._units[found[end]] if found[end] >= 0 else None

    def calls(self, end: int) -> int:
        """How many calls the units before the one at `end` made."""
        at, made = end, 0
        while at not in self._calls:
            at -= 1
            made += sum(1 for _ in _calls_of(self._units[at]))
        self._calls[end] = self._calls[at] + made
        return self._calls[end]

    def first_calls(self, most: int) -> Sequence[Mapping[str, Any]]:
        """The first calls of all, as many as that at most."""
        self._first.extend(islice(self._made, max(0, most - len(self._first))))
        return self._first[:most]


def _calls_of(unit: Unit) -> Iterator[Mapping[str, Any]]:
    if unit.kind != "user":
        for message in unit.dicts:
            yield from message.get("tool_calls", ())


def has_own_words(unit: Unit) -> bool:
    """Whether it is a user message that says something besides reminders that the client put there."""
    if unit.kind != "user":
        return False
    if unit.has_images:
        return True
    text = str(unit.dicts[-1]["content"])
    while _REMINDER_OPEN in text:
        before, _, rest = text.partition(_REMINDER_OPEN)
        if before.strip():
            return True
        text = rest.partition(_REMINDER_CLOSE)[2]
    return bool(text.strip())
