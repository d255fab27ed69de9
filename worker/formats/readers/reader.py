"""What every family's reader of tool calls is to the answer's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call whose name is known. Ids that models write are not passed on: they repeat."""

    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of the arguments' JSON text."""

    arguments: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    is_valid: bool


@dataclass(frozen=True, slots=True)
class CallText:
    """Text that turned out to be no call: to be shown as it was generated."""

    text: str


CallEvent = CallBegun | CallDelta | CallEnded | CallText


class CallReader(Protocol):
    """Reads one marked region, from just after the start marker up to and including the end marker.

    The concatenation of what it consumed is accounted for: it is in a call, or comes back as `CallText`, or is
    markup and whitespace around calls.
    """

    @property
    def done(self) -> bool:
        """Whether the region has ended."""

    @property
    def rest(self) -> str:
        """Once done: text that came after the region."""

    def feed(self, text: str) -> list[CallEvent]: ...

    def finish(self, *, complete: bool) -> list[CallEvent]:
        """No more text comes. `complete` is false when generation was cut at a limit."""
