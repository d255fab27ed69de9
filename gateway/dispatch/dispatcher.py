"""Puts requests under way and lets their clients join them: admission, queue, coalescing, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.coalescing import Attachables, may_share
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue, Placement, WorkerGoneError
from gateway.dispatch.ledger import Ledger
from gateway.dispatch.limits import Limits
from gateway.dispatch.place import Facts, Pending, Placed, Refused, place
from gateway.dispatch.presence import away_error
from gateway.dispatch.readers import EventReader
from gateway.dispatch.reading import Reading, who_reads
from gateway.dispatch.space import Space
from gateway.dispatch.streams import FrameHub
from gateway.dispatch.tasks import cancel_all
from shared import wire
from shared.errors import GatewayError, OverloadedError
from shared.keys import Names
from shared.places import NONE
from shared.registry import Fleet
from shared.request import GenerateRequest, PackedRequest
from shared.work import KINDS, Count, Envelope, Generate, Work

logger = logging.getLogger(__name__)

_RECONNECTION_S = 1.0
_SETTLED_S = 1.0
_ASK_EVERY_S = 1.0
_LOOKS_S = (0.3, 0.3, 0.6, 0.0)  # between looks at leases, which are a second old at the most


class Observer(Protocol):
    """Who counts what happens to requests."""

    def rejection(self, error: GatewayError) -> None: ...

    def attachment(self, model: str) -> None: ...

    def cancellation(self, stage: str) -> None: ...

    def redispatch(self, model: str) -> None: ...

    def returned(self, model: str) -> None: ...


class Dispatcher:
    """What a gateway's requests share. It is the `Ways` of every `Dispatch`."""

    def __init__(
        self,
        *,
        names: Names,
        hub: FrameHub,
        fleet: FleetWatcher,
        jobs: JobQueue,
        space: Space,
        limits: Limits,
        observer: Observer,
    ) -> None:
        self._names = names
        self._hub = hub
        self._fleet = fleet
        self._jobs = jobs
        self._space = space
        self._ledger = Ledger()
        self.last_model = ""  # the one that answered last
        self._limits = limits
        self._observer = observer
        self._attachables = Attachables()
        self._sending: set[asyncio.Task[None]] = set()
        self._asked_s: dict[str, float] = {}  # by model: when hosts were asked for it

    # --- before it is under way ----------------------------------------------------------------------------------

    async def admit(self, request: GenerateRequest, *, is_repeated: bool) -> Dispatch:
        """The same request under way, when one is and its answer is wanted again (`is_repeated`: the client says so);
        else a new one, which begins with its first reader. Raises `OverloadedError` and `BrokerUnavailableError` when
        it may not, only on what is true at this moment."""
        shared = self._attachables.find(request) if may_share(request, is_repeated=is_repeated) else None
        if shared is not None:
            self._observer.attachment(request.model)
            return shared
        return await self._admit(Generate(request=request))

    async def admit_count(self, request: GenerateRequest) -> Dispatch:
        """The counting of the prompt's tokens, by a worker of the model beside its generation. Raises as `admit` does,
        and `UnsupportedWorkError`."""
        return await self._admit(Count(request=request))

    async def _admit(self, work: Work) -> Dispatch:
        self._check_broker()
        request = work.request
        decided = self._decide(work)
        if isinstance(decided, Refused):
            decided = await self._decide_again(work)
        if isinstance(decided, Refused):
            self._observer.rejection(decided.error)
            raise decided.error
        deadline_s = time.time() + self._limits.deadline_s(KINDS[type(work)], request.priority)
        return Dispatch(work, place=decided, deadline_s=deadline_s, ways=self)

    async def _decide_again(self, work: Work) -> Placed | Refused:
        """On what is true now: who has left no longer waits. What workers have computed or dropped shows in their next
        leases, so that nobody is refused for time before those are seen."""
        await self._jobs.settle(_SETTLED_S)
        for pause_s in _LOOKS_S:
            decided = self._decide(work, counted=await self._fleet_now(work.request.model))
            if isinstance(decided, Placed) or decided.error.details.get("reason") != "wait_too_long":
                break
            await asyncio.sleep(pause_s)
        return decided

    async def _fleet_now(self, model: str) -> Fleet:
        """With what lies on the lists of the model's workers at this moment; leases are a little older."""
        fleet = await self._fleet.refresh()
        workers = fleet.ready_workers(model)
        counted = await self._jobs.backlogs(workers)
        return replace(fleet, workers=tuple(map(self._ledger.up_to, workers, counted)))

    def _decide(
        self, work: Work, *, avoid: frozenset[str] = frozenset(), counted: Fleet | None = None
    ) -> Placed | Refused:
        """On the leases, or where the lists have been `counted` just now, on that: what is on its way to them may be
        counted there already."""
        fleet = self._fleet.snapshot if counted is None else counted
        reading = self.reading(work, fleet)
        if reading.refusal is not None:
            return reading.refusal
        request, kind = work.request, KINDS[type(work)]
        facts = Facts(
            request_id=request.id,
            model=request.model,
            priority=request.priority,
            may_wait_s=self._limits.deadline_s(kind, request.priority),
            max_waiting=self._limits.max_waiting(kind),
            avoid=avoid | reading.unable,
            kind=kind,
        )
        return place(fleet, self.pending(fleet, request.model, with_coming=counted is None), facts)

    def reading(self, work: Work, fleet: Fleet) -> Reading:
        """Who of the model's ready workers of the kind reads the work."""
        takers = [w for w in fleet.ready_workers(work.request.model) if KINDS[type(work)].name in w.kinds]
        return who_reads(takers, lambda: Envelope(work=work, gateway=self._hub.gateway_id))

    def _check_broker(self) -> None:
        """Raises `BrokerUnavailableError` when an answer could not come back. A connection that is just being made
        anew is no reason: what is missed meanwhile is repaired."""
        if max(self._fleet.away_s, self._hub.away_s) > _RECONNECTION_S:
            raise away_error("Redis cannot be reached")

    # --- while it is under way -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def joined(self, dispatch: Dispatch) -> AsyncIterator[EventReader]:
        """A reader of the request's events; the first one puts it under way. When the last reader has left before the
        answer ended, the work is cancelled. Raises `BrokerUnavailableError`, to everyone who waits for it."""
        is_first = not dispatch.is_read
        if is_first:
            self._hub.add(dispatch)
            self._attachables.add(dispatch)
        reader = dispatch.join()
        try:
            if is_first:
                await self._begin(dispatch)
            yield reader
        finally:
            dispatch.leave(reader)
            if not dispatch.is_read:
                self._let_go(dispatch, is_wanted=not reader.is_abandoned)

    async def _begin(self, dispatch: Dispatch) -> None:
        try:
            await self._submit(dispatch)
            await self._wake(dispatch.model)
        except GatewayError as error:
            if isinstance(error, OverloadedError):
                self._observer.rejection(error)
            dispatch.fail(error)
            raise

    async def _submit(self, dispatch: Dispatch) -> None:
        """To its place; to another one where that worker is gone meanwhile, which says so by itself."""
        gone: set[str] = set()
        while True:
            attempt, found = dispatch.attempt, dispatch.attempt.place
            try:
                with self._ledger.coming(found.worker, found.lane):
                    number = await self._write(dispatch, found)
            except WorkerGoneError:
                gone.add(found.worker)
                attempt.place = self._anywhere(dispatch, gone)
                continue
            if found.worker:
                self._ledger.note(found.worker, number, found.lane)
            return

    async def _write(self, dispatch: Dispatch, to: Placed) -> int:
        async with self._space.taken(_body_bytes(dispatch.request)):
            return await self._jobs.submit(self._envelope(dispatch), to)

    def _anywhere(self, dispatch: Dispatch, gone: set[str]) -> Placed:
        """A place on another worker; without one it waits for the model. It was admitted, so it is not refused now."""
        decided = self._decide(dispatch.work, avoid=dispatch.tried | gone)
        return decided if isinstance(decided, Placed) else Placed(lane=dispatch.attempt.place.lane)

    def _envelope(self, dispatch: Dispatch) -> Envelope:
        return Envelope(
            work=dispatch.work,
            gateway=self._hub.gateway_id,
            attempt=dispatch.attempt.number,
            deadline_s=self._fleet.clock.of_unix(dispatch.deadline_s),
            codes=wire.READER.codes,
        )

    async def _wake(self, model: str) -> None:
        """Ask the hosts to load the model when no worker holds it."""
        if not is_held(self._fleet.snapshot, model):
            await self._jobs.request_load(model)

    async def wake_again(self, now_s: float) -> None:
        """For the models of requests that wait without a worker: it may have been unloaded since, or a host may have
        missed that it was asked. Raises `BrokerUnavailableError`."""
        for model in {dispatch.model for dispatch in self.waiting()}:
            if now_s - self._asked_s.get(model, -math.inf) >= _ASK_EVERY_S:
                self._asked_s[model] = now_s
                await self._wake(model)

    def _let_go(self, dispatch: Dispatch, *, is_wanted: bool) -> None:
        self._hub.remove(dispatch)
        self._attachables.remove(dispatch)
        attempt = dispatch.attempt
        if not attempt.is_over:
            # Also when it could not be queued: it may have arrived although the answer did not.
            reason = "the gateway gave up" if is_wanted else "the client left"
            self._jobs.cancel_soon(placement_of(dispatch), reason)
            if not is_wanted:
                self._observer.cancellation(dispatch.stage)

    # --- the ways to another worker ------------------------------------------------------------------------------

    def other_place(self, dispatch: Dispatch) -> Placed | None:
        decided = self._decide(dispatch.next_work, avoid=dispatch.tried)
        return decided if isinstance(decided, Placed) and decided.worker else None

    def waiting_place(self, dispatch: Dispatch) -> Placed:
        return Placed(lane=dispatch.attempt.place.lane)

    async def move(self, dispatch: Dispatch, to: Placed) -> None:
        """Take the job to another worker while it waits. Raises `BrokerUnavailableError`."""
        attempt, was = dispatch.attempt, dispatch.attempt.place
        attempt.allow(to)
        try:
            with self._ledger.coming(to.worker, to.lane):
                number = await self._jobs.move(self._envelope(dispatch), was, to)
        except WorkerGoneError:
            return
        if number:
            attempt.place = to
            self._ledger.note(to.worker, number, to.lane)
            logger.info("request %s moves to %s: %s", dispatch.request_id, to.worker, to.reason)

    def waiting(self) -> list[Dispatch]:
        """The requests of which no worker has said anything."""
        return [d for d in self._hub.dispatches.values() if not d.has_ended and not d.attempt.worker]

    def note_fleet(self, fleet: Fleet) -> None:
        self._ledger.forget(fleet.workers)

    def pending(self, fleet: Fleet, model: str, *, with_coming: bool = True) -> Pending:
        """What is known beyond the leases."""
        return Pending(
            since=self._ledger.since(fleet.workers, with_coming=with_coming),
            unplaced=self._fleet.unplaced.get(model, NONE),
            since_beside=self._ledger.since_beside(fleet.workers, with_coming=with_coming),
            unplaced_beside=self._fleet.unplaced_beside.get(model, {}),
        )

    def end(self, dispatch: Dispatch) -> None:
        self._jobs.cancel_soon(placement_of(dispatch), "another worker takes over")

    def send(self, dispatch: Dispatch) -> None:
        attempt = dispatch.attempt
        where = "from the beginning" if attempt.resume is None else f"at token {len(attempt.resume.token_ids)}"
        whom = attempt.place.worker or "whichever worker comes"
        is_returned = dispatch.past_attempts[-1].returned is not None
        level = logging.INFO if is_returned else logging.WARNING
        logger.log(level, "request %s: attempt %d, %s, on %s", dispatch.request_id, attempt.number, where, whom)
        note = self._observer.returned if is_returned else self._observer.redispatch
        note(dispatch.model)
        task = asyncio.get_running_loop().create_task(self._send(dispatch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, dispatch: Dispatch) -> None:
        if not dispatch.is_read:
            return
        attempt = dispatch.attempt
        try:
            await self._submit(dispatch)
            await self._wake(dispatch.model)
        except GatewayError as error:
            dispatch.fail(error)
        if not dispatch.is_read or dispatch.attempt is not attempt:
            # Whoever left or went on meanwhile has cancelled what was not there yet.
            self._jobs.cancel_soon(placement_of(dispatch, attempt), "nobody waits for it")

    def note_answer(self, model: str) -> None:
        """A whole answer was given."""
        self.last_model = model

    async def aclose(self) -> None:
        """Nothing is sent any more."""
        await cancel_all(self._sending)


def is_held(fleet: Fleet, model: str) -> bool:
    """Whether a worker has the model, or will."""
    return any(worker.model == model and worker.state in ("ready", "loading") for worker in fleet.workers)


def _body_bytes(request: GenerateRequest) -> int:
    """What the body of a request takes, where it may be much."""
    return len(request.packed.data) if isinstance(request, PackedRequest) else 0


def placement_of(dispatch: Dispatch, attempt: Attempt | None = None) -> Placement:
    """Where the attempt's job is, by default the newest's."""
    attempt = attempt or dispatch.attempt
    return Placement(request_id=dispatch.request_id, attempt=attempt.number, model=dispatch.model, place=attempt.place)
