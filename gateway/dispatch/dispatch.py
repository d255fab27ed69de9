"""One request's life at the gateway, from its admission to the last event that its clients read.

A `Dispatch` takes what workers say of the request, passes it on exactly once, and decides what becomes of the request
when its worker is lost (`gateway.dispatch.decision`). What it decides is done by `Ways`.
"""

from __future__ import annotations

import time
from typing import Protocol

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.decision import Decision, Standing, decide
from gateway.dispatch.readers import EventReader, Told
from shared.errors import GatewayError, WorkerLostError
from shared.events import Event, Failed, Finished, Progress, Started
from shared.request import GenerateRequest
from shared.wire import FrameEntry

_LAST = (Finished, Failed)


class Ways(Protocol):
    """How a request reaches another worker."""

    def other_queue(self, dispatch: Dispatch) -> str:
        """The queue of a worker that can take it and has not tried; empty when there is none."""

    def send(self, dispatch: Dispatch) -> None:
        """Put its newest attempt under way, without waiting for that."""


class Dispatch:
    """`queue` is that of the first attempt's job, empty for work without a job. `deadline_s` is the Unix time by which
    somebody must have begun with it. Without `ways` it stays where it is."""

    def __init__(self, request: GenerateRequest, *, queue: str, deadline_s: float, ways: Ways | None = None) -> None:
        self.request = request
        self.deadline_s = deadline_s
        self.attempt = Attempt(1, queue)
        self.past_attempts: list[Attempt] = []
        self.created_s = int(time.time())
        self.opened_s = time.monotonic()
        self.has_tokens = False
        self.has_ended = False
        self._ways = ways
        self._told = Told()
        self._has_started = False  # a `Started` was told
        self._has_answer = False  # and something after it

    @property
    def request_id(self) -> str:
        return self.request.id

    @property
    def model(self) -> str:
        return self.request.model

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def stage(self) -> str:
        """How far the request has come: queued, prefill or decode."""
        if self.attempt.is_started:
            return "decode"
        return "prefill" if self.attempt.is_running else "queued"

    @property
    def has_job(self) -> bool:
        return bool(self.attempt.queue)

    @property
    def remaining_s(self) -> float:
        """Seconds until its work must have begun."""
        return self.deadline_s - time.time()

    @property
    def tried(self) -> frozenset[str]:
        """The workers that had it."""
        return frozenset(attempt.worker for attempt in (*self.past_attempts, self.attempt) if attempt.worker)

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Of all tokens of the answer so far; None when there were too many to keep."""
        return self._told.token_ids

    # --- those who read it ---------------------------------------------------------------------------------------

    @property
    def may_be_joined(self) -> bool:
        """Whether somebody who comes now can be told everything, and there is more to come."""
        return self._told.is_whole and not self.has_ended

    @property
    def is_read(self) -> bool:
        return self._told.is_read

    def join(self) -> EventReader:
        """A reader of all events from the first."""
        return self._told.join()

    def leave(self, reader: EventReader) -> None:
        self._told.leave(reader)

    # --- what workers say ----------------------------------------------------------------------------------------

    def take(self, entry: FrameEntry, worker: str, epoch: str) -> None:
        """One step's worth of this request from a worker. Duplicates and what others say are dropped."""
        attempt = self.attempt
        if self.has_ended or entry.attempt != attempt.number or not attempt.accepts(entry.seq, worker, epoch):
            return
        if entry.seq > attempt.next_seq:
            self.lose(WorkerLostError("a part of the answer was lost on its way here", worker=worker), is_over=False)
            return
        attempt.heard_s = time.monotonic()
        attempt.next_seq += 1
        if entry.token_ids:
            self.has_tokens = True
            self._told.note_ids(entry.token_ids)
        events = entry.events
        if events:
            if not self._has_answer or isinstance(events[-1], _LAST):
                events = tuple([event for event in events if self._is_told(event)])
            self._told.push(events)

    def _is_told(self, event: Event) -> bool:
        """Take note of the event; whether the readers hear it."""
        attempt = self.attempt
        if isinstance(event, Progress):
            attempt.is_running = attempt.is_running or event.phase == "prefill"
            return True
        if isinstance(event, Failed):
            attempt.is_over = True
            self.has_ended = not self._moves(event.error())
            return self.has_ended
        attempt.is_running = attempt.is_started = True
        if isinstance(event, Started):
            is_first, self._has_started = not self._has_started, True
            return is_first
        self._has_answer = True
        if isinstance(event, Finished):
            self.has_ended = attempt.is_over = True
        return True

    # --- its endings ---------------------------------------------------------------------------------------------

    def lose(self, fault: GatewayError, *, is_over: bool = True) -> None:
        """Nothing more comes of this attempt: another worker takes over, or the request fails. `is_over`: its worker
        does nothing more for it. Ignored once the request has ended."""
        if not self.has_ended and not self._moves(fault, is_over=is_over):
            self.fail(fault)

    def fail(self, error: GatewayError) -> None:
        """End the request from this side. Ignored once it has ended."""
        if not self.has_ended:
            self.has_ended = True
            self._told.push((Failed.of(error),))

    def _moves(self, fault: GatewayError, *, is_over: bool = True) -> bool:
        """Whether another worker takes over."""
        worker = str(fault.details.get("worker", ""))
        self.attempt.worker = self.attempt.worker or worker
        queue = self._ways.other_queue(self) if self._ways is not None else ""
        decision = decide(
            Standing(
                fault=fault,
                is_over=is_over,
                attempts=self.attempt.number,
                remaining_s=self.remaining_s,
                has_answer=self._has_answer,
                has_place=bool(queue),
            )
        )
        if decision is not Decision.TRY_ELSEWHERE or self._ways is None:
            return False
        self.past_attempts.append(self.attempt)
        self.attempt = Attempt(self.attempt.number + 1, queue)
        self.has_tokens = False
        self._told.forget_ids()
        self._ways.send(self)
        return True
