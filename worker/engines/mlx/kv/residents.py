"""Which prefixes could be resumed, found out anew only when something changed, and not all the time."""

from __future__ import annotations

import time
from typing import Any

from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.marks import Residents, find_residents

_EVERY_S = 0.5


class ResidentsView:
    """Of one tree."""

    def __init__(self, index: PrefixIndex[Any]) -> None:
        self._index = index
        self._seen: object = None
        self._seen_s = 0.0
        self._residents = Residents()

    def look(self, state: object) -> Residents:
        """`state` is another when the tree has changed. As of a second ago at the most."""
        now_s = time.monotonic()
        if state != self._seen and now_s - self._seen_s >= _EVERY_S:
            self._seen, self._seen_s = state, now_s
            self._residents = find_residents(self._index)
        return self._residents
