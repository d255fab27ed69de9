"""Who reads a request's events, and what was told to them.

Mostly there is one reader. A client that asks again for what is being answered becomes another: it gets everything
from the beginning, out of a record that is given up when it grows too large.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence

from shared.events import Event
from shared.merging import merged, size_bytes

MOST_EVENT_BYTES = 1 << 20  # who asks again does so early, mostly during the prefill
MOST_ID_BYTES = 1 << 20  # 262,144 tokens
MERGE_AT = 2048  # events that one reader has not taken
_EARLY_S = 0.001  # event loops may ring an alarm this much too early


class EventReader:
    """One client's place in a request's events. Made by `Told.join`, read by one task."""

    def __init__(self, past: Sequence[Event]) -> None:
        self.is_abandoned = False
        self._events = list(past)
        self._merge_at = MERGE_AT
        self._waiter: asyncio.Future[None] | None = None
        self._until_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at_s = 0.0

    async def wait(self, timeout_s: float) -> list[Event]:
        """Everything that arrived since the last call; empty after `timeout_s`, or once abandoned."""
        if not self._events and not self.is_abandoned:
            loop = asyncio.get_running_loop()
            self._waiter = waiter = loop.create_future()
            self._until_s = loop.time() + timeout_s
            # There is a wait for every token and hardly one times out, so an alarm is left as it is and looks again.
            if self._alarm is None or self._rings_at_s > self._until_s:
                self._set_alarm(loop)
            try:
                await waiter
            finally:
                self._waiter = None
        events, self._events = self._events, []
        return events

    def abandon(self) -> None:
        """The client has left: wake whoever waits."""
        self.is_abandoned = True
        self._wake()

    def push(self, events: Sequence[Event]) -> None:
        """What a client that does not read leaves behind is joined, so that it takes no more than its text."""
        self._events += events
        if len(self._events) > self._merge_at:
            self._events = merged(self._events)
            self._merge_at = max(MERGE_AT, 2 * len(self._events))
        self._wake()

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at_s = self._until_s
        self._alarm = loop.call_at(self._rings_at_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        if self._waiter is None:
            return
        if loop.time() < self._until_s - _EARLY_S:
            self._set_alarm(loop)
        else:
            self._wake()


class Told:
    """What a request's readers were told, within a budget of bytes: the events, for whoever comes later, and the ids
    of the tokens behind them, from which another worker could go on."""

    def __init__(self) -> None:
        self._readers: list[EventReader] = []
        self._events: list[Event] | None = []
        self._event_bytes = 0
        self._ids: array[int] | None = array("I")

    @property
    def is_read(self) -> bool:
        return bool(self._readers)

    @property
    def is_whole(self) -> bool:
        """Whether somebody who comes now can still be told everything."""
        return self._events is not None

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """The ids of all tokens so far; None when there were too many to keep."""
        return None if self._ids is None else tuple(self._ids)

    def join(self) -> EventReader:
        """A reader of all events from the first; only while `is_whole`."""
        assert self._events is not None
        reader = EventReader(self._events)
        self._readers.append(reader)
        return reader

    def leave(self, reader: EventReader) -> None:
        self._readers.remove(reader)
        reader.close()

    def push(self, events: Sequence[Event]) -> None:
        if self._events is not None:
            self._events += events
            self._event_bytes += sum(map(size_bytes, events))
            if self._event_bytes > MOST_EVENT_BYTES:
                self._events = None
        for reader in self._readers:
            reader.push(events)

    def note_ids(self, token_ids: Sequence[int]) -> None:
        if self._ids is not None:
            self._ids.extend(token_ids)
            if len(self._ids) * self._ids.itemsize > MOST_ID_BYTES:
                self._ids = None

    def forget_ids(self) -> None:
        """The tokens so far are not those of the answer: another worker begins it anew."""
        self._ids = array("I")
