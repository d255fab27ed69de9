"""The parts of a long conversation that are rendered whole, to see whether its pieces are found there.

Many templates look ahead or back from each message over all others: whole renderings of a long conversation would cost
its length squared. A part begins with the message that the part before it ended with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker.prompt.conversation import Conversation
from worker.prompt.past import has_own_words
from worker.prompt.windows import anchor

_PART_UNITS = 128


@dataclass(frozen=True, slots=True)
class Part:
    """The units from `start` up to `end`, neither end an answer, and the messages that make a conversation of them."""

    start: int
    end: int
    dicts: list[dict[str, Any]]


def parts(conversation: Conversation, most: int = _PART_UNITS) -> Iterator[Part]:
    """Of a conversation that does not end with an answer: parts of so many units, or up to the next that is none."""
    units, start, end = conversation.units, 0, 0
    while end < len(units):
        end = min(start + most, len(units))
        while units[end - 1].kind == "assistant":
            end += 1
        yield Part(start, end, _dicts(conversation, start, end))
        start = end - 1


def _dicts(conversation: Conversation, start: int, end: int) -> list[dict[str, Any]]:
    units = conversation.units
    begun = start - 1 if units[start].kind == "tool" and start > 0 else start
    dicts = list(conversation.system)
    if begun and not has_own_words(units[begun]):
        dicts += anchor(conversation, begun)
    return [*dicts, *(item for unit in units[begun:end] for item in unit.dicts)]
