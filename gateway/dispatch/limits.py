"""For how long, and beside how many others, a request may wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.config import Settings
from shared.request import PRIORITIES, Priority
from shared.work import KINDS, Count, Embed, Generate, Kind

_BESIDE_S = 30.0  # a client that asks for a count is about to ask for more


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`max_queue` requests wait for one model at most, and in the lane of a kind of work its number in `max_beside`;
    deadlines are seconds until somebody must have begun."""

    max_queue: int
    interactive_s: float
    batch_s: float
    max_beside: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            max_queue=settings.max_queue,
            interactive_s=settings.interactive_deadline_s,
            batch_s=settings.batch_deadline_s,
            max_beside={KINDS[Count].lane: settings.max_counts, KINDS[Embed].lane: settings.max_counts},
        )

    def max_waiting(self, kind: Kind) -> int:
        return self.max_beside.get(kind.lane, self.max_queue)

    def deadline_s(self, kind: Kind, priority: Priority) -> float:
        """Seconds that a request of this kind and class may wait for its turn."""
        if kind.lane and not kind.is_long:
            return _BESIDE_S
        return self.batch_s if priority == "batch" else self.interactive_s

    def deadlines(self) -> dict[str, float]:
        """By class: seconds that a request to generate may wait."""
        return {priority: self.deadline_s(KINDS[Generate], priority) for priority in PRIORITIES}
