"""Which of the server's slots a request gets: the one that has computed most of its prompt. Pure.

A slot keeps what it computed last; a prompt in another slot would compute it all again. What is in a slot is known here
from what was sent and generated, so that the server is never asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from worker.prompt.sequences import common_length


@dataclass(slots=True)
class Slot:
    """`tokens` are those it has computed, for `tenant`; `used` orders slots by their last use."""

    number: int
    tokens: list[int] = field(default_factory=list)
    tenant: str = ""
    is_busy: bool = False
    used: int = 0


class Slots:
    """Not thread-safe."""

    def __init__(self, count: int) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._clock = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def take(self, tokens: Sequence[int], tenant: str) -> tuple[Slot, int]:
        """(the idle slot to use, how many of the tokens it has). One must be idle. A slot of which more is used than
        lost is taken; where there is none, an empty one, else the longest unused."""
        idle = [slot for slot in self._slots if not slot.is_busy]
        common = {slot.number: shared_tokens(slot, tokens, tenant) for slot in idle}
        gain = {slot.number: max(0, 2 * common[slot.number] - len(slot.tokens)) for slot in idle}
        slot = max(idle, key=lambda each: (gain[each.number], not each.tokens, -each.used))
        slot.is_busy = True
        return slot, common[slot.number]

    def give_back(self, slot: Slot, tokens: Sequence[int], tenant: str) -> None:
        self._clock += 1
        slot.tokens, slot.tenant, slot.is_busy, slot.used = list(tokens), tenant, False, self._clock

    def forget(self) -> None:
        """The server was started anew."""
        for slot in self._slots:
            slot.tokens = []


def shared_tokens(slot: Slot, tokens: Sequence[int], tenant: str) -> int:
    """Of another tenant's nothing is shared: how fast a prompt is would tell what they said."""
    return common_length(slot.tokens, tokens) if slot.tenant == tenant else 0
