"""Which day a prompt says, for templates that tell the date.

A head that changed at midnight would make every warm conversation cold. So a conversation keeps the day it began on,
and a head keeps its day while it is in use: a new day begins with a head that is new, or has lain idle for so long that
it is hardly kept any more. Workers agree on it (`SharedDays`), also those that start later: an answer goes on elsewhere
behind the prompt that it began with, and what lies in files or on other hosts stays the beginning of the next prompt.
"""

from __future__ import annotations

import datetime
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

IDLE_S = 12 * 3600.0
_AGREED_S = 3600.0  # for which nobody is asked again
_CONVERSATIONS = 4096
_KEY_BYTES = 16


class SharedDays(Protocol):
    """What the workers of a deployment know together. Thread-safe."""

    def agree(
        self, conversation: bytes, head: bytes, day: datetime.datetime, *, is_known: bool, goes_on: bool
    ) -> datetime.datetime | None:
        """The day of this conversation: that which it has, else that of its head, else this one, which comes before the
        head's where it `is_known` that prompts of the conversation have told it. It is kept for conversations that go
        on, and for heads while they are used. None where nobody can be asked."""


class _Begun(NamedTuple):
    """`agreed_s`: when the others were asked about a conversation that goes on, on the clock of this process."""

    day: datetime.datetime
    agreed_s: float | None = None


def _now() -> datetime.datetime:
    """Without the name of its zone, which does not travel."""
    return datetime.datetime.fromisoformat(datetime.datetime.now().astimezone().isoformat(timespec="seconds"))


class Days:
    """Thread-safe. Forgets the longest unused conversations and heads first."""

    def __init__(
        self, now: Callable[[], datetime.datetime] = _now, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._monotonic_s = monotonic_s
        self._shared: SharedDays | None = None
        self._heads: OrderedDict[bytes, tuple[datetime.datetime, float]] = OrderedDict()
        self._conversations: OrderedDict[bytes, _Begun] = OrderedDict()
        self._lock = threading.Lock()

    def share(self, shared: SharedDays) -> None:
        """Ask there, too, from now on."""
        self._shared = shared

    def of(self, head: bytes, beginning: bytes, *, goes_on: bool) -> datetime.datetime:
        """The day of the conversation with this head and these first words; `goes_on`: it has an answer already."""
        key = _digest(beginning, head)
        with self._lock:
            known = self._conversations.get(key)
            begun = self._begun(known, head)
            self._keep(key, begun)
        if self._shared is None or self._is_agreed(begun):
            return begun.day
        agreed = self._shared.agree(key, _digest(head), begun.day, is_known=known is not None, goes_on=goes_on)
        if agreed is None:
            return begun.day
        with self._lock:
            self._keep(key, _Begun(agreed, self._monotonic_s() if goes_on else None))
        return agreed

    def _is_agreed(self, begun: _Begun) -> bool:
        return begun.agreed_s is not None and self._monotonic_s() - begun.agreed_s < _AGREED_S

    def _begun(self, known: _Begun | None, head: bytes) -> _Begun:
        if known is None:
            return _Begun(self._head_day(head))
        if self._heads.get(head, (known.day,))[0] == known.day:
            self._use(head, known.day)
        return known

    def _keep(self, key: bytes, begun: _Begun) -> None:
        self._conversations[key] = begun
        self._conversations.move_to_end(key)
        if len(self._conversations) > _CONVERSATIONS:
            self._conversations.popitem(last=False)

    def _head_day(self, head: bytes) -> datetime.datetime:
        day, used_s = self._heads.get(head, (None, 0.0))
        if day is None or self._monotonic_s() - used_s > IDLE_S:
            day = self._now()
        self._use(head, day)
        return day

    def _use(self, head: bytes, day: datetime.datetime) -> None:
        self._heads[head] = (day, self._monotonic_s())
        self._heads.move_to_end(head)
        if len(self._heads) > _CONVERSATIONS:
            self._heads.popitem(last=False)


def _digest(content: bytes, key: bytes = b"") -> bytes:
    return hashlib.blake2b(content, key=key, digest_size=_KEY_BYTES).digest()
