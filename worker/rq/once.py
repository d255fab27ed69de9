"""Which attempts this worker has taken: none runs twice here, whatever Redis has forgotten."""

from __future__ import annotations

from collections import OrderedDict

from worker.serving.ticket import Ticket

_REMEMBERED_S = 3600.0  # longer than a job waits: what is older is refused by its signed deadline


class RunOnce:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._taken_s: OrderedDict[Ticket, float] = OrderedDict()

    def take(self, ticket: Ticket, now_s: float) -> bool:
        """Whether the attempt is new here. Who copies a job copies its signature, and cannot make another."""
        while self._taken_s and next(iter(self._taken_s.values())) < now_s - _REMEMBERED_S:
            self._taken_s.popitem(last=False)
        is_new = ticket not in self._taken_s
        self._taken_s.setdefault(ticket, now_s)
        return is_new
