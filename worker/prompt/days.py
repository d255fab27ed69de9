"""Which day a prompt says, for templates that tell the date.

A head that changed at midnight would make every warm conversation cold. So a conversation keeps the day it began on,
and a head keeps its day while it is in use: a new day begins with a head that is new, or has lain idle for so long that
it is hardly kept any more.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

_IDLE_S = 12 * 3600.0
_CONVERSATIONS = 4096


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


class Days:
    """Thread-safe. Forgets the longest unused conversations and heads first."""

    def __init__(
        self, now: Callable[[], datetime.datetime] = _now, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._monotonic_s = monotonic_s
        self._heads: OrderedDict[bytes, tuple[datetime.datetime, float]] = OrderedDict()
        self._conversations: OrderedDict[tuple[bytes, Hashable], datetime.datetime] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, head: bytes, beginning: Hashable) -> datetime.datetime:
        """The day of the conversation with this head and these first words."""
        key = (head, beginning)
        with self._lock:
            day = self._conversations.pop(key, None)
            if day is None:
                day = self._head_day(head)
            elif self._heads.get(head, (day,))[0] == day:
                self._use(head, day)
            self._conversations[key] = day
            if len(self._conversations) > _CONVERSATIONS:
                self._conversations.popitem(last=False)
            return day

    def _head_day(self, head: bytes) -> datetime.datetime:
        day, used_s = self._heads.get(head, (None, 0.0))
        if day is None or self._monotonic_s() - used_s > _IDLE_S:
            day = self._now()
        self._use(head, day)
        return day

    def _use(self, head: bytes, day: datetime.datetime) -> None:
        self._heads[head] = (day, self._monotonic_s())
        self._heads.move_to_end(head)
        if len(self._heads) > _CONVERSATIONS:
            self._heads.popitem(last=False)
