"""Puts requests under way and lets their clients join them: admission, queue, coalescing, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.coalescing import Attachables, may_share
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.facts import Facts, Pending, Placed, Refused
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import ChangedError, JobQueue, Placement, WorkerGoneError
from gateway.dispatch.limits import Limits
from gateway.dispatch.loading import hosts_to_load
from gateway.dispatch.lookups import conversation_of, text_bytes_of
from gateway.dispatch.outage import outlast
from gateway.dispatch.outcome import Outcome, outcome_at
from gateway.dispatch.outlook import Look, Outlook
from gateway.dispatch.place import place
from gateway.dispatch.presence import away_error
from gateway.dispatch.readers import EventReader
from gateway.dispatch.reading import Reading, who_reads
from gateway.dispatch.space import Space
from gateway.dispatch.streams import FrameHub
from gateway.dispatch.suspects import Suspects
from gateway.dispatch.tasks import cancel_all
from shared import wire
from shared.errors import GatewayError, OverloadedError
from shared.events import Usage
from shared.keys import Names, host_of
from shared.places import NONE
from shared.registry import Fleet
from shared.request import GenerateRequest, PackedRequest
from shared.work import KINDS, Count, Embed, Envelope, Generate, Speak, Transcribe, Work

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_NOBODY: frozenset[str] = frozenset()
_RECONNECTION_S = 1.0
_SETTLED_S = 1.0
_ASK_EVERY_S = 1.0
_MOST_CHANGES = 2  # of what was seen, before a place is taken as it is
_LOOKS_S = (0.3, 0.3, 0.6, 0.0)  # between looks at leases, which are a second old at the most


class Observer(Protocol):
    """Who counts what happens to requests."""

    def rejection(self, error: GatewayError) -> None: ...

    def attachment(self, model: str) -> None: ...

    def cancellation(self, stage: str) -> None: ...

    def redispatch(self, model: str) -> None: ...

    def returned(self, model: str) -> None: ...

    def move(self, model: str) -> None: ...

    def resume(self, model: str) -> None: ...

    def placed(self, model: str, host: str, reason: str, attempt: int) -> None: ...

    def came(self, model: str, priority: str, outcome: Outcome) -> None: ...


class Dispatcher:
    """What a gateway's requests share. It is the `Ways` of every `Dispatch`."""

    def __init__(
        self,
        *,
        names: Names,
        hub: FrameHub,
        fleet: FleetWatcher,
        jobs: JobQueue,
        outlook: Outlook,
        space: Space,
        suspects: Suspects,
        limits: Limits,
        observer: Observer,
        patience_s: float = 0.0,
    ) -> None:
        """`patience_s` is for how long a request waits while Redis is away."""
        self._names = names
        self._hub = hub
        self._fleet = fleet
        self._jobs = jobs
        self._space = space
        self._suspects = suspects
        self._outlook = outlook
        self._placing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by model
        self._versions: dict[str, int] = {}  # of workers, as of the last job that was put there from here
        self.last_model = ""  # the one that answered last
        self._limits = limits
        self._observer = observer
        self._patience_s = patience_s
        self.has_changed = asyncio.Event()  # what waits may find a place now
        self._attachables = Attachables()
        self._sending: set[asyncio.Task[None]] = set()
        self._asked_s: dict[str, float] = {}  # by model: when hosts were asked for it

    # --- before it is under way ----------------------------------------------------------------------------------

    async def admit(self, request: GenerateRequest, *, is_repeated: bool, is_shared: bool = False) -> Dispatch:
        """The same request under way, when one is and its answer is wanted again (`is_repeated`: the client says so);
        else a new one, which begins with its first reader; `is_shared`: other gateways may come to hear it. Raises
        `OverloadedError` and `BrokerUnavailableError` when it may not, only on what is true at this moment."""
        shared = self._attachables.find(request) if may_share(request, is_repeated=is_repeated) else None
        if shared is not None:
            self._observer.attachment(request.model)
            return shared
        return await self._admit(Generate(request=request, is_shared=is_shared))

    async def admit_alone(self, request: GenerateRequest) -> Dispatch:
        """A new one, whatever is under way. Raises as `admit` does."""
        return await self._admit(Generate(request=request))

    async def admit_count(self, request: GenerateRequest) -> Dispatch:
        """The counting of the prompt's tokens, by a worker of the model beside its generation. Raises as `admit` does,
        and `UnsupportedWorkError`."""
        return await self._admit(Count(request=request))

    async def admit_embed(self, work: Embed) -> Dispatch:
        """Vectors, by a worker that makes them. Raises as `admit` does, and `UnsupportedWorkError`."""
        return await self._admit(work)

    async def admit_sound(self, work: Transcribe | Speak) -> Dispatch:
        """A transcript or speech, by a worker that can make it. Raises as `admit` does, and `UnsupportedWorkError`."""
        return await self._admit(work)

    async def _admit(self, work: Work) -> Dispatch:
        lone_deaths = self._suspects.check(work.request)
        avoid = self._with_suspects(None) if lone_deaths else _NOBODY
        decided = await self._outlast(lambda: self._decided(work, avoid))
        if isinstance(decided, Refused):
            self._observer.rejection(decided.error)
            raise decided.error
        deadline_s = time.time() + self._limits.deadline_s(KINDS[type(work)], work.request.priority)
        return Dispatch(work, place=decided, deadline_s=deadline_s, ways=self, lone_deaths=lone_deaths)

    async def _outlast(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        return await outlast(ask, patience_s=self._patience_s, away_s=self._away_s)

    def _with_suspects(self, dispatch: Dispatch | None) -> frozenset[str]:
        """The workers that have a suspect besides this one."""
        others = [each for each in self._hub.dispatches.values() if each.is_suspect and each is not dispatch]
        return frozenset(each.attempt.worker or each.attempt.place.worker for each in others if not each.has_ended)

    def _avoided(self, dispatch: Dispatch) -> frozenset[str]:
        return dispatch.avoided | (self._with_suspects(dispatch) if dispatch.is_suspect else _NOBODY)

    async def _decided(self, work: Work, avoid: frozenset[str]) -> Placed | Refused:
        """On what is true at this moment. Raises `BrokerUnavailableError`."""
        self._check_broker()
        await self._fleet.fresh()
        decided = self._decide(work, avoid=avoid, look=await self._outlook.look(work.request))
        return await self._decide_again(work, avoid) if isinstance(decided, Refused) else decided

    async def _decide_again(self, work: Work, avoid: frozenset[str]) -> Placed | Refused:
        """On what is true now: who has left no longer waits. What workers have computed or dropped shows in their next
        leases, so that nobody is refused for time before those are seen."""
        await self._jobs.settle(_SETTLED_S)
        for pause_s in _LOOKS_S:
            await self._fleet.refresh()
            decided = self._decide(work, avoid=avoid, look=await self._outlook.look(work.request))
            if isinstance(decided, Placed) or decided.error.details.get("reason") != "wait_too_long":
                break
            await asyncio.sleep(pause_s)
        return decided

    def _decide(self, work: Work, *, avoid: frozenset[str] = frozenset(), look: Look | None = None) -> Placed | Refused:
        """On what a look has found, or without one on the last leases: then whoever puts it there looks again."""
        fleet = self._fleet.snapshot if look is None else look.fleet
        reading = self.reading(work, fleet)
        if reading.refusal is not None:
            return reading.refusal
        avoid |= reading.unable
        # Who should have been heard gets nothing more while there is another.
        for avoided in dict.fromkeys((avoid | self._hub.silent, avoid)):
            found = place(fleet, self.pending(work.request.model, look), self._facts(work, avoided, look))
            if isinstance(found, Placed) and found.worker:
                break
        return found

    def _facts(self, work: Work, avoid: frozenset[str], look: Look | None) -> Facts:
        request, kind = work.request, KINDS[type(work)]
        return Facts(
            request_id=request.id,
            model=request.model,
            priority=request.priority,
            may_wait_s=self._limits.deadline_s(kind, request.priority),
            max_waiting=self._limits.max_waiting(kind),
            avoid=avoid,
            kind=kind,
            text_bytes=text_bytes_of(request),
            flow=request.tenant or conversation_of(request).key,
            home=look.home if look is not None and request.priority != "side" else None,
            user_worker=look.user_worker if look is not None else "",
            now_s=look.now_s if look is not None else self._fleet.clock.of_unix(time.time()),
        )

    async def place_again(self, dispatch: Dispatch) -> tuple[Look, Placed | Refused]:
        """Where it would be put now, were it not waiting already. Raises `BrokerUnavailableError`."""
        look = await self._outlook.look(dispatch.request, but=self._envelope(dispatch).job_id)
        return look, self._decide(dispatch.work, avoid=self._avoided(dispatch), look=look)

    def reading(self, work: Work, fleet: Fleet) -> Reading:
        """Who of the model's ready workers of the kind reads the work."""
        takers = [w for w in fleet.ready_workers(work.request.model) if KINDS[type(work)].name in w.kinds]
        return who_reads(takers, lambda: Envelope(work=work, gateway=self._hub.gateway_id))

    def _check_broker(self) -> None:
        """Raises `BrokerUnavailableError` when an answer could not come back. A connection that is just being made
        anew is no reason: what is missed meanwhile is repaired."""
        if self._away_s() > _RECONNECTION_S:
            raise away_error("Redis cannot be reached")

    def _away_s(self) -> float:
        return max(self._fleet.away_s, self._hub.away_s)

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
            if is_first and not dispatch.is_under_way:
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
        """To its place; decided anew where something was put there meanwhile, or where that worker is gone, which says
        so by itself. The last try takes the place as it is."""
        gone: set[str] = set()
        changes = 0
        async with self._placing[dispatch.model]:  # else a burst would be decided anew again and again
            while True:
                attempt, found = dispatch.attempt, dispatch.attempt.place
                try:
                    to = found if changes < _MOST_CHANGES else replace(found, seen=-1)
                    await self._outlast(lambda: self._put(dispatch, to))  # noqa: B023 - it is over with the call
                    attempt.put_s = time.monotonic()
                    return
                except ChangedError:
                    changes += 1
                except WorkerGoneError:
                    gone.add(found.worker)
                attempt.place = await self._outlast(lambda: self._anywhere(dispatch, gone))

    async def _put(self, dispatch: Dispatch, to: Placed) -> None:
        """Raises `ChangedError`, without sending anything where this gateway itself has put something there since, and
        `WorkerGoneError`."""
        self._check_broker()  # who waited for others need not wait for Redis in vain, too
        if 0 <= to.seen < self._versions.get(to.worker, 0):
            raise ChangedError(to.worker)
        self._versions[to.worker] = await self._write(dispatch, to)
        if not dispatch.kind.lane:
            self._observer.placed(dispatch.model, host_of(to.worker), to.reason, dispatch.attempt.number)

    async def _write(self, dispatch: Dispatch, to: Placed) -> int:
        async with self._space.taken(_body_bytes(dispatch.request)):
            return await self._jobs.submit(self._envelope(dispatch, to), to)

    def forget_the_gone(self, fleet: Fleet) -> None:
        alive = {worker.worker for worker in fleet.workers}
        self._versions = {name: version for name, version in self._versions.items() if name in alive}

    async def _anywhere(self, dispatch: Dispatch, gone: set[str]) -> Placed:
        """A place as things are now; without one it waits for the model. It was admitted, so it is not refused now."""
        look = await self._outlook.look(dispatch.request)
        decided = self._decide(dispatch.work, avoid=self._avoided(dispatch) | gone, look=look)
        return decided if isinstance(decided, Placed) else Placed(lane=dispatch.attempt.place.lane)

    def _envelope(self, dispatch: Dispatch, to: Placed | None = None) -> Envelope:
        prospect = None if to is None else to.prospect
        now_s = self._fleet.clock.of_unix(time.time())
        return Envelope(
            work=dispatch.work,
            gateway=self._hub.gateway_id,
            attempt=dispatch.attempt.number,
            deadline_s=self._fleet.clock.of_unix(dispatch.deadline_s),
            codes=wire.READER.codes,
            is_suspect=dispatch.is_suspect,
            placed_s=0.0 if prospect is None else now_s,
            wait_s=0.0 if prospect is None else prospect.raw_wait_s + prospect.fetch_s,
            prefill_s=0.0 if prospect is None else prospect.raw_own_s,
        )

    async def _wake(self, model: str) -> None:
        """Ask the hosts to load the model when no worker holds it."""
        if not is_held(self._fleet.snapshot, model):
            await self._jobs.request_load(model, hosts_to_load(self._fleet.snapshot, model, most=1))

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
        decided = self._decide(dispatch.next_work, avoid=dispatch.tried | self._avoided(dispatch))
        return decided if isinstance(decided, Placed) and decided.worker else None

    def is_held_back(self, dispatch: Dispatch) -> bool:
        fleet, model = self._fleet.snapshot, dispatch.model
        ready = {worker.worker for worker in fleet.ready_workers(model)}
        offers = (each.state for host in fleet.hosts for each in host.models if each.id == model)
        is_coming = any(state in ("loading", "ready") for state in offers)
        return is_coming or bool(ready - dispatch.tried)

    def died_of(self, dispatch: Dispatch) -> None:
        logger.error("a worker died of request %s, for the %d. time", dispatch.request_id, dispatch.lone_deaths)
        self._suspects.note_soon(dispatch.request)

    def clear(self, dispatch: Dispatch) -> None:
        self._jobs.clear_soon(self._envelope(dispatch).job_id)
        self.has_changed.set()

    def waiting_place(self, dispatch: Dispatch) -> Placed:
        return Placed(lane=dispatch.attempt.place.lane)

    async def move(self, dispatch: Dispatch, to: Placed) -> None:
        """Take the job to another worker while it waits. Raises `BrokerUnavailableError`."""
        attempt, was = dispatch.attempt, dispatch.attempt.place
        attempt.allow(to)
        try:
            number = await self._jobs.move(self._envelope(dispatch, to), was, to)
        except WorkerGoneError:
            return
        if number:
            attempt.place, attempt.put_s = to, time.monotonic()
            self._observer.move(dispatch.model)
            logger.info("request %s moves to %s: %s", dispatch.request_id, to.worker, to.reason)

    def waiting(self) -> list[Dispatch]:
        """The requests of which no worker has said anything, and whose jobs are this gateway's."""
        every = self._hub.dispatches.values()
        return [d for d in every if d.attempt.number and not d.has_ended and not d.attempt.worker]

    def pending(self, model: str, look: Look | None = None) -> Pending:
        """What is known beyond the leases."""
        return Pending(
            unplaced=self._fleet.unplaced.get(model, NONE),
            unplaced_beside=self._fleet.unplaced_beside.get(model, {}),
            sights=look.sights if look is not None else {},
            lent=look.lent if look is not None else (),
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
        if attempt.resume is not None:
            self._observer.resume(dispatch.model)
        task = asyncio.get_running_loop().create_task(self._send(dispatch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, dispatch: Dispatch) -> None:
        if not dispatch.is_read:
            return
        attempt = dispatch.attempt
        try:
            if dispatch.attempt.place.worker:
                dispatch.attempt.place = await self._anywhere(dispatch, set(dispatch.tried))
            await self._submit(dispatch)
            await self._wake(dispatch.model)
        except GatewayError as error:
            dispatch.fail(error)
        if not dispatch.is_read or dispatch.attempt is not attempt:
            # Whoever left or went on meanwhile has cancelled what was not there yet.
            self._jobs.cancel_soon(placement_of(dispatch, attempt), "nobody waits for it")

    def note_end(
        self, dispatch: Dispatch, *, ran_s: float | None, first_token_s: float | None, usage: Usage
    ) -> Outcome | None:
        """What became of the prediction, for metrics and `explain`; None where there was none, or the attempt was not
        the only one. Moments are on the monotonic clock."""
        attempt = dispatch.attempt
        if attempt.number > 1:
            return None
        outcome = outcome_at(
            attempt.place,
            wait_s=None if ran_s is None else max(0.0, ran_s - attempt.put_s),
            first_s=None if first_token_s is None else max(0.0, first_token_s - attempt.put_s),
            cached_tokens=usage.cached_tokens or 0,
            input_tokens=usage.input_tokens or 0,
        )
        if outcome is not None:
            self._observer.came(dispatch.model, dispatch.request.priority, outcome)
            self._jobs.note_end_soon(dispatch.request_id, outcome.encode())
        return outcome

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
