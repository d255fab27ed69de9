"""Puts requests under way and lets their clients join them: admission, queue, coalescing, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Protocol

from gateway.dispatch.admission import History, Load, admit, queue_of
from gateway.dispatch.coalescing import Attachables, may_share
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue
from gateway.dispatch.limits import Limits
from gateway.dispatch.placement import choose_other_queue, choose_queue
from gateway.dispatch.presence import away_error
from gateway.dispatch.readers import EventReader
from gateway.dispatch.streams import FrameHub
from gateway.dispatch.tasks import cancel_all
from shared import keys
from shared.errors import DeadlineExceededError, GatewayError, OverloadedError
from shared.events import Failed, Started
from shared.keys import Names
from shared.request import Envelope, GenerateRequest

logger = logging.getLogger(__name__)

_RECONNECTION_S = 1.0
_SETTLED_S = 1.0


class Observer(Protocol):
    """Who counts what happens to requests."""

    def rejection(self, error: GatewayError) -> None: ...

    def attachment(self, model: str) -> None: ...

    def cancellation(self, stage: str) -> None: ...

    def redispatch(self, model: str) -> None: ...


class Dispatcher:
    """What a gateway's requests share. It is the `Ways` of every `Dispatch`."""

    def __init__(
        self,
        *,
        names: Names,
        hub: FrameHub,
        fleet: FleetWatcher,
        jobs: JobQueue,
        history: History,
        limits: Limits,
        observer: Observer,
    ) -> None:
        self._names = names
        self._hub = hub
        self._fleet = fleet
        self._jobs = jobs
        self._history = history
        self._limits = limits
        self._observer = observer
        self._attachables = Attachables()
        self._sending: set[asyncio.Task[None]] = set()

    # --- before it is under way ----------------------------------------------------------------------------------

    async def admit(self, request: GenerateRequest, *, is_repeated: bool) -> Dispatch:
        """The same request under way, when one is and its answer is wanted again (`is_repeated`: the client says so);
        else a new one, which begins with its first reader. Raises `OverloadedError` and `BrokerUnavailableError` when
        it may not, only on what is true at this moment."""
        shared = self._attachables.find(request) if may_share(request, is_repeated=is_repeated) else None
        if shared is not None:
            self._observer.attachment(request.model)
            return shared
        self._check_broker()
        try:
            self._admit(request)
        except OverloadedError:
            await self._jobs.settle(_SETTLED_S)  # who has left no longer waits
            await self._fleet.refresh()
            try:
                self._admit(request)
            except OverloadedError as error:
                self._observer.rejection(error)
                raise
        return Dispatch(
            request,
            queue=choose_queue(self._names, self._fleet.snapshot, request.model),
            deadline_s=time.time() + self._limits.deadline_s(request.priority),
            ways=self,
        )

    def _admit(self, request: GenerateRequest) -> None:
        model = request.model
        load = Load(
            queued=self._fleet.depths.get(model, 0),
            outstanding=self._hub.outstanding(model),
            service_s=self._history.service_s(model),
        )
        max_queue = queue_of(request.priority, self._limits.max_queue)
        deadline_s = self._limits.deadline_s(request.priority)
        admit(self._fleet.snapshot, model, load, max_queue=max_queue, deadline_s=deadline_s)

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
            dispatch.fail(error)
            raise

    async def _submit(self, dispatch: Dispatch) -> None:
        await self._jobs.submit(self._envelope(dispatch), dispatch.attempt.queue)

    def _envelope(self, dispatch: Dispatch) -> Envelope:
        return Envelope(
            request=dispatch.request,
            gateway=self._hub.gateway_id,
            attempt=dispatch.attempt.number,
            deadline_s=dispatch.deadline_s,
            enqueued_at_s=time.time(),
            resume=dispatch.attempt.resume,
        )

    async def _wake(self, model: str) -> None:
        """Ask the hosts to load the model when no worker holds it."""
        if not any(worker.model == model for worker in self._fleet.snapshot.workers):
            await self._jobs.request_load(model)

    def _let_go(self, dispatch: Dispatch, *, is_wanted: bool) -> None:
        self._hub.remove(dispatch)
        self._attachables.remove(dispatch)
        attempt = dispatch.attempt
        if not attempt.is_over:
            # Also when it could not be queued: it may have arrived although the answer did not.
            reason = "the gateway gave up" if is_wanted else "the client left"
            self._jobs.cancel_soon(dispatch.request_id, attempt.number, attempt.queue, reason)
            if not is_wanted:
                self._observer.cancellation(dispatch.stage)

    # --- the ways to another worker ------------------------------------------------------------------------------

    def other_queue(self, dispatch: Dispatch) -> str:
        return choose_other_queue(self._names, self._fleet.snapshot, dispatch.model, dispatch.tried)

    def end(self, dispatch: Dispatch) -> None:
        attempt = dispatch.attempt
        self._jobs.cancel_soon(dispatch.request_id, attempt.number, attempt.queue, "another worker takes over")

    def send(self, dispatch: Dispatch) -> None:
        attempt = dispatch.attempt
        where = "from the beginning" if attempt.resume is None else f"at token {len(attempt.resume.token_ids)}"
        logger.warning("request %s: attempt %d, %s, on %s", dispatch.request_id, attempt.number, where, attempt.queue)
        self._observer.redispatch(dispatch.model)
        task = asyncio.get_running_loop().create_task(self._send(dispatch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, dispatch: Dispatch) -> None:
        try:
            await self._submit(dispatch)
        except GatewayError as error:
            dispatch.fail(error)

    def note_answer(self, model: str, seconds: float) -> None:
        """A whole answer took so long: what those who come next may expect."""
        self._history.note(model, seconds)

    async def aclose(self) -> None:
        """Nothing is sent any more."""
        await cancel_all(self._sending)

    # --- work without a job --------------------------------------------------------------------------------------

    async def count(self, request: GenerateRequest) -> int:
        """The prompt's tokens, counted by any worker of the model beside its generation. Raises the error of who
        counts, `DeadlineExceededError` and `BrokerUnavailableError`."""
        self._check_broker()
        dispatch = Dispatch(request, queue="", deadline_s=time.time() + keys.CALL_TTL_S)
        self._hub.add(dispatch)
        reader = dispatch.join()
        try:
            await self._jobs.count(self._envelope(dispatch))
            await self._wake(request.model)
            return await _counted(dispatch, reader)
        finally:
            dispatch.leave(reader)
            self._hub.remove(dispatch)


async def _counted(dispatch: Dispatch, reader: EventReader) -> int:
    while dispatch.remaining_s > 0:
        for event in await reader.wait(dispatch.remaining_s):
            if isinstance(event, Started):
                return event.usage.input_tokens
            if isinstance(event, Failed):
                raise event.error()
    raise DeadlineExceededError(f"no worker of {dispatch.model} counted the tokens in time")
