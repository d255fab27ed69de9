"""A client asks again, at any gateway, for what is being answered: it hears the same answer, from its beginning."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.dispatch.dispatch import Dispatch, Ways
from gateway.dispatch.facts import Placed
from gateway.dispatch.following import Following
from gateway.dispatch.jobs import JobQueue
from gateway.dispatch.limits import Limits
from gateway.dispatch.outage import outlast
from gateway.dispatch.runs import Repeat, Run, Runs
from gateway.dispatch.streams import FrameHub
from shared.request import GenerateRequest
from shared.work import KINDS, Generate

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_ANSWER_S = 1.0  # in which a worker says all again, or that it cannot


class Joining:
    """`ways` are those of a request that this gateway serves; `on_joined` counts what was joined, by its model."""

    def __init__(
        self,
        runs: Runs,
        hub: FrameHub,
        ways: Ways,
        jobs: JobQueue,
        limits: Limits,
        *,
        patience_s: float,
        away_s: Callable[[], float],
        on_joined: Callable[[str], None],
    ) -> None:
        self._runs = runs
        self._hub = hub
        self._ways = ways
        self._limits = limits
        self._patience_s = patience_s
        self._away_s = away_s
        self._on_joined = on_joined
        self._following = Following(runs, jobs)

    async def join(self, request: GenerateRequest, repeat: Repeat) -> Dispatch | None:
        """The answer that its key names, where one runs; None where the request is to be answered anew. Raises
        `InvalidRequestError` for a key that came with something else, and `BrokerUnavailableError`."""
        run = await self.first(request.tenant, repeat, request.id)
        if run is None:
            return None
        is_here = run.gateway == self._hub.gateway_id
        dispatch = self._here(run) if is_here else await self._there(request, run, repeat)
        if dispatch is None:
            await self.begin_anew(request.tenant, repeat, request.id)
        else:
            self._on_joined(request.model)
        return dispatch

    async def first(self, tenant: str, repeat: Repeat, request_id: str) -> Run | None:
        """Who asked this first; None where this request is the first. Raises as `join` does."""
        return await self._outlast(lambda: self._runs.first(tenant, repeat, request_id))

    async def begin_anew(self, tenant: str, repeat: Repeat, request_id: str) -> None:
        """This request is the first from now on. Raises `BrokerUnavailableError`."""
        await self._outlast(lambda: self._runs.begin_anew(tenant, repeat, request_id))

    async def aclose(self) -> None:
        """Nothing is followed any more."""
        await self._following.aclose()

    async def _outlast(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        return await outlast(ask, patience_s=self._patience_s, away_s=self._away_s)

    def _here(self, run: Run) -> Dispatch | None:
        dispatch = self._hub.dispatches.get(run.request_id)
        return dispatch if dispatch is not None and dispatch.may_be_joined else None

    def _joined(self, request: GenerateRequest, worker: str = "") -> Dispatch:
        work = Generate(request=request, is_shared=True)
        deadline_s = time.time() + self._limits.deadline_s(KINDS[Generate], request.priority)
        place = Placed(lane=request.priority, worker=worker, reason="joined")
        return Dispatch(work, place=place, deadline_s=deadline_s, is_joined=True)

    def _waiting(self, request: GenerateRequest, run: Run, repeat: Repeat) -> Dispatch:
        """What nobody has taken yet is followed while its second client is told that it waits."""
        dispatch = self._joined(request)
        dispatch.use(self._ways)
        self._following.follow(dispatch, run, repeat)
        return dispatch

    async def _there(self, request: GenerateRequest, run: Run, repeat: Repeat) -> Dispatch | None:
        """What was asked at another gateway, whether that is still there or not."""
        found = await self._outlast(lambda: self._runs.whereabouts(run))
        if found.waits_as:
            return self._waiting(request, run, repeat)
        worker = found.taken_by
        if not worker:
            return None
        dispatch = self._joined(request, worker)
        self._hub.add(dispatch)
        try:
            if await self._runs.join(worker, run, request.id) and await _is_heard(dispatch):
                dispatch.use(self._ways)
                logger.info("request %s joins %s on %s", request.id, run.request_id, worker)
                return dispatch
            await self._runs.leave(worker, request.id)
        except BaseException:
            self._hub.remove(dispatch)
            raise
        self._hub.remove(dispatch)
        return None


async def _is_heard(dispatch: Dispatch) -> bool:
    """Whether the worker says what it has said so far, and not that nobody can join."""
    reader = dispatch.join()
    try:
        await reader.wait(_ANSWER_S)
    finally:
        dispatch.leave(reader)
    return bool(dispatch.attempt.worker) and dispatch.attempt.fault is None
