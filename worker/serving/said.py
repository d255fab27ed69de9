"""What a worker has said of one answer, for a gateway that comes to hear it later."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from shared.events import Event
from shared.merging import merged, size_bytes
from shared.wire import FrameEntry

MOST_BYTES = 1 << 20
_MERGE_AT = 512  # events, before neighbours are joined


@dataclass(slots=True)
class Listener:
    """A gateway that hears an answer besides the one that asked for it first, and what it calls the request. Its
    attempt has the number 0: it was placed nowhere."""

    gateway: str
    request_id: str
    seq: int = 0

    def next_entry(self, events: tuple[Event, ...], token_ids: tuple[int, ...]) -> FrameEntry:
        """An entry with its next number, which is used up."""
        seq = self.seq
        self.seq += 1
        return FrameEntry(request_id=self.request_id, attempt=0, seq=seq, token_ids=token_ids, events=events)


class Said:
    """All events and token ids of an answer so far, until they are more than `MOST_BYTES`."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._ids = array("I")
        self._bytes = 0
        self._merge_at = _MERGE_AT

    @property
    def is_whole(self) -> bool:
        """Whether something was said, and all of it can be said again."""
        return bool(self._events) and self._bytes <= MOST_BYTES

    def note(self, events: Sequence[Event], token_ids: Sequence[int]) -> None:
        if self._bytes > MOST_BYTES:
            return
        self._events += events
        self._ids.extend(token_ids)
        self._bytes += sum(map(size_bytes, events)) + self._ids.itemsize * len(token_ids)
        if self._bytes > MOST_BYTES:
            self._events, self._ids = [], array("I")
        elif len(self._events) > self._merge_at:
            self._events = merged(self._events)
            self._merge_at = max(_MERGE_AT, 2 * len(self._events))

    def again(self, listener: Listener) -> FrameEntry:
        """All of it as the listener's first entry."""
        return listener.next_entry(tuple(merged(self._events)), tuple(self._ids))
