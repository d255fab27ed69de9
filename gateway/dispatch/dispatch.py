"""One request's life at the gateway, from its admission to the last event that its clients read.

A `Dispatch` takes what workers say of the request, passes it on exactly once, and decides what becomes of the request
when its worker is lost (`gateway.dispatch.decision`). What it decides is done by `Ways`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.decision import Decision, Standing, decide, may_wait
from gateway.dispatch.estimate import Estimate
from gateway.dispatch.facts import Placed
from gateway.dispatch.readers import EventReader, Told
from gateway.dispatch.suspects import LONE_DEATHS, Death, refusal
from shared.errors import GatewayError, WorkerLostError
from shared.events import Event, Failed, Finished, Progress, Returned, Started, Usage
from shared.request import GenerateRequest, Resume
from shared.wire import FrameEntry
from shared.work import ENDS, KINDS, PROBATION_TOKENS, Generate, Kind, Work

_LAST = (*ENDS, Failed, Returned)
_AT_ONCE_S = 3.0  # what is no wait, beside what it takes to be sure that a worker is lost
_GO_ON_S = 60.0  # within which another worker must have gone on with a begun answer


class Ways(Protocol):
    """How a request reaches another worker."""

    def other_place(self, dispatch: Dispatch) -> Placed | None:
        """A worker that can take it and has not tried; None when there is none."""

    def waiting_place(self, dispatch: Dispatch) -> Placed:
        """Where it waits for a worker."""

    def end(self, dispatch: Dispatch) -> None:
        """Nobody wants its newest attempt any more, whoever has it."""

    def send(self, dispatch: Dispatch) -> None:
        """Put its newest attempt under way, without waiting for that."""

    def is_held_back(self, dispatch: Dispatch) -> bool:
        """Whether there are workers that would take it, were it not for the suspects that they have, or one comes."""

    def died_of(self, dispatch: Dispatch) -> None:
        """A worker died, and this was the only suspect."""

    def clear(self, dispatch: Dispatch) -> None:
        """It is no suspect any more."""


class Dispatch:
    """`place` is that of the first attempt's job. `deadline_s` is the Unix time by which somebody must have begun with
    it. Without `ways` it stays where it is. `lone_deaths` of workers, at which it was the only suspect, are known
    already. `is_joined`: the worker at `place` says here, too, what it says to another gateway; that attempt has the
    number 0 and no job."""

    def __init__(
        self,
        work: Work,
        *,
        place: Placed,
        deadline_s: float,
        ways: Ways | None = None,
        lone_deaths: int = 0,
        is_joined: bool = False,
    ) -> None:
        self._work = work
        self.deadline_s = deadline_s
        self.attempt = Attempt(0 if is_joined else 1, place)
        self.past_attempts: list[Attempt] = []
        self.created_s = int(time.time())
        self.opened_s = time.monotonic()
        self.has_tokens = False
        self.has_ended = False
        self.lone_deaths = lone_deaths
        self.is_suspect = lone_deaths > 0  # a worker died while it was there: it runs beside no other such
        self._ways = ways
        self._told = Told()
        self._has_left_a_hang = False
        self._started: Started | None = None  # as it was told
        self._has_answer = False  # something after it was told
        self._estimate: Estimate | None = None  # of what its engine does not count

    @property
    def work(self) -> Work:
        """What its newest attempt is asked to do."""
        return self._work_from(self.attempt.resume)

    @property
    def next_work(self) -> Work:
        """What another attempt would be asked to do, if it were made now."""
        return self._work_from(self.resume())

    def _work_from(self, resume: Resume | None) -> Work:
        if resume is not None and isinstance(self._work, Generate):
            return replace(self._work, resume=resume)
        return self._work

    @property
    def is_under_way(self) -> bool:
        """Whether nothing must be sent for its first reader: it was joined."""
        return self.attempt.number != 1

    @property
    def kind(self) -> Kind:
        return KINDS[type(self._work)]

    @property
    def request(self) -> GenerateRequest:
        return self._work.request

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
    def shown_stage(self) -> str:
        """The same for a person: who has started may have most of the prompt before it."""
        if self._has_answer or self.attempt.said_tokens:
            return "decode"
        return "prefill" if self.attempt.is_running else "queued"

    @property
    def usage(self) -> Usage | None:
        """As its engine said when it accepted the request."""
        return None if self._started is None else self._started.usage

    @property
    def remaining_s(self) -> float:
        """Seconds until its work must have begun."""
        return self.deadline_s - time.time()

    @property
    def tried(self) -> frozenset[str]:
        """The workers that had it."""
        return frozenset(attempt.worker for attempt in (*self.past_attempts, self.attempt) if attempt.worker)

    @property
    def avoided(self) -> frozenset[str]:
        """The workers that get it no more: those that lost it, leave, or cannot do it."""
        return frozenset(attempt.worker for attempt in self.past_attempts if attempt.returned != "busy")

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Of all tokens of the answer so far; None when there were too many to keep."""
        return self._told.token_ids

    def use(self, ways: Ways) -> None:
        """From here on it may reach another worker."""
        self._ways = ways

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

    def may_hear(self, entry: FrameEntry, host: str) -> bool:
        """Whether the entry comes from a host on which this attempt was placed. What it says of other attempts
        is nothing to anybody."""
        return entry.attempt != self.attempt.number or self.attempt.is_for(host)

    def take(self, entry: FrameEntry, worker: str, epoch: str) -> None:
        """One step's worth of this request from a worker. Duplicates and what others say are dropped."""
        attempt = self.attempt
        if self.has_ended or entry.attempt != attempt.number or not attempt.accepts(entry.seq, worker, epoch):
            return
        if entry.seq > attempt.next_seq:
            self.lose(WorkerLostError("a part of the answer was lost on its way here", worker=worker))
            return
        attempt.heard_s = time.monotonic()
        attempt.next_seq += 1
        if entry.token_ids:
            self.has_tokens = True
            attempt.said_tokens += len(entry.token_ids)
            if self.is_suspect and attempt.said_tokens >= PROBATION_TOKENS:
                self._clear()
            self._told.note_ids(entry.token_ids)
        events = entry.events
        if events:
            if not (self._has_answer and attempt.is_started) or isinstance(events[-1], _LAST):
                events = tuple([self._counted(event) for event in events if self._is_told(event)])
            elif self._estimate is not None:
                self._estimate.note(events)
            self._told.push(events)
            if attempt.fault is not None:
                self.lose(attempt.fault)

    def _counted(self, event: Event) -> Event:
        """With numbers where its engine has none."""
        if isinstance(event, Started) and event.usage.output_tokens is None:
            self._estimate = Estimate(self.request)
        if isinstance(event, Started | Finished):
            return (self._estimate or Estimate(self.request)).told(event)
        if self._estimate is not None:
            self._estimate.note((event,))
        return event

    def _is_told(self, event: Event) -> bool:
        """Take note of the event; whether the readers hear it."""
        attempt = self.attempt
        if isinstance(event, Progress):
            attempt.is_running = attempt.is_running or event.phase == "prefill"
            attempt.note_progress(event.done_tokens, event.total_tokens)
            return True
        if isinstance(event, Failed | Returned):
            attempt.is_over = True
            attempt.fault = event.error()
            if isinstance(event, Returned) and not attempt.is_started:
                attempt.returned = event.reason
            return False
        attempt.is_running = attempt.is_started = True
        if isinstance(event, Started):
            attempt.note_progress(event.usage.cached_tokens or 0, event.usage.input_tokens or 0)
            is_first = self._started is None
            self._started = self._started or event
            return is_first
        self._has_answer = True
        if isinstance(event, ENDS):
            self.has_ended = attempt.is_over = True
        return True

    # --- its endings ---------------------------------------------------------------------------------------------

    def lose(self, fault: GatewayError) -> None:
        """Nothing more is expected of this attempt: another worker takes over, or the request fails. Ignored once the
        request has ended."""
        if self.has_ended:
            return
        if self._is_poison(fault):
            self.fail(refusal())
        elif not self._moves(fault):
            self.fail(fault)

    def _is_poison(self, fault: GatewayError) -> bool:
        """Take note of a death; whether it is certain now that workers die of this request."""
        death = Death.of(fault)
        if death is None or self._ways is None:
            return False
        is_its_own = death.is_of(was_suspect=self.is_suspect)
        self.attempt.is_excused = not self.is_suspect and death.suspects > 0
        self.is_suspect = True
        if is_its_own:
            self.lone_deaths += 1
            self._ways.died_of(self)
        return self.lone_deaths >= LONE_DEATHS

    def suspect(self, fault: GatewayError) -> None:
        """Its worker may be lost: another takes over, if one can begin at once. Else it is waited for. Where the engine
        hangs it may be this request that makes it: one whose prompt was in hand stays until the worker ends; another
        is a suspect, and leaves no second engine that hangs before it was none again."""
        is_hang = bool(fault.details.get("is_hang"))
        if is_hang and self._is_stuck():
            return
        place = self._ways.other_place(self) if self._ways is not None and not self.has_ended else None
        if place is not None and place.wait_s is not None and place.wait_s <= _AT_ONCE_S:
            self._has_left_a_hang |= self._moves(fault) and is_hang

    def _is_stuck(self) -> bool:
        attempt = self.attempt
        if attempt.is_running and not self._has_answer:
            return True
        if attempt.hung_as_suspect is None:
            attempt.hung_as_suspect = self.is_suspect
        self.is_suspect = True
        return self._has_left_a_hang and attempt.hung_as_suspect

    @property
    def is_followed(self) -> bool:
        """Whether it waits elsewhere, as another gateway's request, and has no job of its own."""
        return not self.attempt.number and not self.attempt.worker and not self.has_ended

    def follow_to(self, worker: str) -> None:
        """A worker has taken what it follows, and is about to be asked to say it here, too."""
        self.attempt.place = replace(self.attempt.place, worker=worker)

    def begin_here(self, fault: GatewayError) -> None:
        """What it followed cannot be joined: it is sent from here."""
        self.attempt.returned = "busy"
        self.lose(fault)

    def take_back(self, fault: GatewayError) -> None:
        """Nobody has it, and nobody had: it is sent again, which is no try."""
        self.attempt.returned = "leaving"
        self.lose(fault)

    def fail(self, error: GatewayError) -> None:
        """End the request from this side. Ignored once it has ended."""
        if not self.has_ended:
            self.has_ended = True
            self._told.push((Failed.of(error),))

    def _moves(self, fault: GatewayError) -> bool:
        """Whether another worker takes over."""
        self.attempt.worker = self.attempt.worker or str(fault.details.get("worker", ""))
        place = self._next_place()
        decision = decide(self._standing(fault, has_place=place is not None))
        if self._ways is None or place is None or decision not in (Decision.TRY_ELSEWHERE, Decision.GO_ON_ELSEWHERE):
            return False
        resume = None
        if decision is Decision.GO_ON_ELSEWHERE:
            resume = self.resume()
            self.deadline_s = max(self.deadline_s, time.time() + _GO_ON_S)
        else:
            self.has_tokens = False
            self._told.forget_ids()
        if not self.attempt.is_over:
            self._ways.end(self)
        self.past_attempts.append(self.attempt)
        self.attempt = Attempt(self.attempt.number + 1, place, resume)
        self._ways.send(self)
        return True

    def _next_place(self) -> Placed | None:
        """Another worker; where there is none, what a worker only could not do now waits for the next."""
        if self._ways is None:
            return None
        place = self._ways.other_place(self)
        if place is None and self.is_suspect and self._ways.is_held_back(self):
            return self._ways.waiting_place(self)
        if place is None and may_wait([attempt.returned for attempt in (*self.past_attempts, self.attempt)]):
            return self._ways.waiting_place(self)
        return place

    def _clear(self) -> None:
        self.is_suspect = False
        if self._ways is not None:
            self._ways.clear(self)

    def _standing(self, fault: GatewayError, *, has_place: bool) -> Standing:
        every = (*self.past_attempts, self.attempt)
        returns = sum(attempt.returned is not None for attempt in every)
        return Standing(
            fault=fault,
            is_returned=self.attempt.returned is not None,
            attempts=self.attempt.number - returns - sum(attempt.is_excused for attempt in every),
            returns=returns,
            remaining_s=self.remaining_s,
            has_answer=self._has_answer,
            can_resume=self.resume() is not None,
            has_place=has_place,
        )

    def resume(self) -> Resume | None:
        """What another worker needs to go on at the next token; None where it cannot."""
        token_ids = self._told.token_ids
        if self._started is None or not token_ids:
            return None
        return Resume(token_ids=token_ids, usage=self._started.usage, prompt_digest=self._started.prompt_digest)
