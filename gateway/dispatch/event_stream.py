"""One request's events as they arrive from its worker, and the clients that read them.

Mostly there is one reader. A client that asks again for what is being answered becomes another: it gets everything
from the beginning, out of a log that is given up when it grows too long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from shared.errors import GatewayError, WorkerLostError
from shared.events import Event, Failed, Finished, Progress
from shared.wire import FrameEntry

PAST_EVENTS = 4096  # under a megabyte of small objects; who asks again does so early, mostly during the prefill
_LAST = (Finished, Failed)
_EARLY_S = 0.001  # event loops may ring an alarm this much too early


class EventReader:
    """One client's place in a request's events. Made by `EventStream.join`, read by one task."""

    def __init__(self, past: Sequence[Event]) -> None:
        self.is_abandoned = False
        self._events = list(past)
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
        self._events += events
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


class EventStream:
    """The events of one request. Made by `FrameHub.begin`. `queue` is the RQ queue of its job, empty without one.

    `deadline_s` is the Unix time by which somebody must have begun with it (`is_running`: prefill or later).
    `worker` and `epoch` say who answers, empty until its first entry. Once a worker has started the answer, entries
    of any other are fenced off; before that a second worker may take over (RQ gave it the job again).
    """

    def __init__(self, request_id: str, *, attempt: int, model: str, queue: str, deadline_s: float) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.model = model
        self.queue = queue
        self.deadline_s = deadline_s
        self.worker = ""
        self.epoch = ""
        self.created_s = int(time.time())
        self.opened_s = self.heard_s = time.monotonic()
        self.is_running = False
        self.is_started = False
        self.has_tokens = False
        self.has_ended = False
        self.was_ended_by_worker = False
        self._next_seq = 0
        self._past: list[Event] | None = []
        self._readers: list[EventReader] = []

    @property
    def stage(self) -> str:
        """How far the request has come: queued, prefill or decode."""
        if self.is_started:
            return "decode"
        return "prefill" if self.is_running else "queued"

    @property
    def has_job(self) -> bool:
        return bool(self.queue)

    @property
    def may_be_joined(self) -> bool:
        """Whether somebody who comes now can still be told everything."""
        return self._past is not None

    @property
    def is_read(self) -> bool:
        return bool(self._readers)

    def join(self) -> EventReader:
        """A reader of all events from the first. The stream must be one that `may_be_joined`."""
        assert self._past is not None
        reader = EventReader(self._past)
        self._readers.append(reader)
        return reader

    def leave(self, reader: EventReader) -> None:
        self._readers.remove(reader)
        reader.close()

    def fail(self, error: GatewayError) -> None:
        """End the request from this side. Ignored once it has ended."""
        if not self.has_ended:
            self.has_ended = True
            self._push((Failed.of(error),))

    def take(self, entry: FrameEntry, worker: str, epoch: str) -> None:
        """One step's worth of this request from a worker. Duplicates and what others say are dropped."""
        if self.has_ended or entry.attempt != self.attempt or not self._accepts(entry, worker, epoch):
            return
        if entry.seq > self._next_seq:
            self.fail(WorkerLostError("a part of the answer was lost on its way here", worker=worker))
            return
        self.heard_s = time.monotonic()
        self._next_seq += 1
        self.has_tokens = self.has_tokens or bool(entry.token_ids)
        events = entry.events
        if events:
            if not self.is_started or isinstance(events[-1], _LAST):
                self._note(events)
            self._push(events)

    def _note(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, _LAST):
                self.has_ended = self.was_ended_by_worker = True
            elif not isinstance(event, Progress):
                self.is_running = self.is_started = True
            elif event.phase == "prefill":
                self.is_running = True

    def _accepts(self, entry: FrameEntry, worker: str, epoch: str) -> bool:
        if worker == self.worker and epoch == self.epoch:
            return entry.seq >= self._next_seq
        if self.worker and (self.is_started or entry.seq != 0):
            return False
        self.worker, self.epoch, self._next_seq = worker, epoch, 0
        return True

    def _push(self, events: Sequence[Event]) -> None:
        if self._past is not None:
            self._past += events
            if len(self._past) > PAST_EVENTS:
                self._past = None
        for reader in self._readers:
            reader.push(events)
