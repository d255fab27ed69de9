"""For how long, and beside how many others, a request may wait."""

from __future__ import annotations

from dataclasses import dataclass

from shared.config import Settings
from shared.request import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`max_queue` requests wait for one model at most; deadlines are seconds until somebody must have begun."""

    max_queue: int
    interactive_s: float
    batch_s: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            max_queue=settings.max_queue,
            interactive_s=settings.interactive_deadline_s,
            batch_s=settings.batch_deadline_s,
        )

    def deadline_s(self, priority: Priority) -> float:
        """Seconds that a request of this class may wait for its turn."""
        return self.batch_s if priority == "batch" else self.interactive_s
