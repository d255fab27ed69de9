"""A request that waits at another gateway, asked again at this one: joined when a worker takes it.

What waits has no voice yet that could be joined. So it is looked at until a worker has it, which then says here, too,
what it says there. Where nobody will take it any more (its client left, Redis forgot it, or its gateway is gone and
nobody is there to bring it to a worker) it is sent from here instead.
"""

from __future__ import annotations

import asyncio
import logging
import time

from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.facts import Placed
from gateway.dispatch.jobs import JobQueue, Placement
from gateway.dispatch.runs import Repeat, Run, Runs, Whereabouts
from gateway.dispatch.tasks import cancel_all
from shared.errors import BrokerUnavailableError, GatewayError, OverloadedError

logger = logging.getLogger(__name__)

_EVERY_S = 0.1
_READ_S = 10.0  # within which whoever asked begins to read
_ANSWER_S = 1.0  # in which a worker says all again, or that it cannot


class Following:
    def __init__(self, runs: Runs, jobs: JobQueue) -> None:
        self._runs = runs
        self._jobs = jobs
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, dispatch: Dispatch, run: Run, repeat: Repeat) -> None:
        """Until it is joined or sent from here, or nobody reads it any more. Nobody waits for that."""
        logger.info("request %s waits for %s, which was asked at %s", dispatch.request_id, run.request_id, run.gateway)
        task = asyncio.get_running_loop().create_task(self._follow(dispatch, run, repeat))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        await cancel_all(self._tasks)

    async def _follow(self, dispatch: Dispatch, run: Run, repeat: Repeat) -> None:
        await _is_read(dispatch)
        while dispatch.is_read and dispatch.is_followed:
            try:
                if not await self._look(dispatch, run):
                    await self._begin_here(dispatch, repeat)
                    return
                dispatch.attempt.heard_s = time.monotonic()  # so that nobody takes it for lost
            except BrokerUnavailableError as error:
                logger.debug("request %s is not looked at: %s", run.request_id, error)
            except GatewayError as error:
                dispatch.fail(error)
            await asyncio.sleep(_EVERY_S)

    async def _look(self, dispatch: Dispatch, run: Run) -> bool:
        """Join it, where a worker has it. False when there is nothing to wait for."""
        found = await self._runs.whereabouts(run)
        if found.taken_by:
            return await self._join(dispatch, run, found.taken_by)
        return bool(found.waits_as) and not await self._is_abandoned(dispatch, run, found)

    async def _join(self, dispatch: Dispatch, run: Run, worker: str) -> bool:
        """Ask once, and wait for what the worker says: that it cannot is an answer, too, on which others take over."""
        logger.info("request %s joins %s on %s", dispatch.request_id, run.request_id, worker)
        dispatch.follow_to(worker)
        if not await self._runs.join(worker, run, dispatch.request_id):
            return False
        end_s = time.monotonic() + _ANSWER_S
        while dispatch.is_read and dispatch.is_followed and time.monotonic() < end_s:  # noqa: ASYNC110 - of both
            await asyncio.sleep(_EVERY_S / 10)
        return not dispatch.is_followed

    async def _is_abandoned(self, dispatch: Dispatch, run: Run, found: Whereabouts) -> bool:
        """Whether no gateway would bring it to a worker, and it is taken off the list on which it would stay."""
        if found.has_gateway or (found.waits_for and await self._runs.has_lease(found.waits_for)):
            return False
        place = Placed(lane=dispatch.attempt.place.lane, worker=found.waits_for)
        work = Placement(request_id=run.request_id, attempt=found.waits_as, model=dispatch.model, place=place)
        return await self._jobs.cancel(work, "its gateway is gone")

    async def _begin_here(self, dispatch: Dispatch, repeat: Repeat) -> None:
        await self._runs.begin_anew(dispatch.tenant, repeat, dispatch.request_id)
        if dispatch.is_read and dispatch.is_followed:
            dispatch.begin_here(OverloadedError("what was asked first cannot be joined"))


async def _is_read(dispatch: Dispatch) -> None:
    """Wait until whoever asked reads."""
    end_s = time.monotonic() + _READ_S
    while not dispatch.is_read and time.monotonic() < end_s:  # noqa: ASYNC110 - nobody else waits for it
        await asyncio.sleep(_EVERY_S / 10)
