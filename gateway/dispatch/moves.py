"""When a job that waits goes to another worker: a pure decision, and who looks for it.

A job waits on the list of the worker that was best when it was placed. It moves when there is a worker at last, when
its own takes nothing any more, or when another can begin with it at once while its own cannot.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.place import Facts, Pending, Placed, place, wait_on
from shared.errors import BrokerUnavailableError
from shared.registry import Fleet
from shared.work import KINDS, Work

logger = logging.getLogger(__name__)

EVERY_S = 0.25
_PATIENCE_S = 1.0  # on a list before another worker is looked at


def better_place(
    fleet: Fleet,
    pending: Pending,
    was: Placed,
    work: Work,
    waited_s: float,
    *,
    avoid: frozenset[str] = frozenset(),
) -> Placed | None:
    """Where the job should go, not to one of those to avoid; None to leave it."""
    request, kind = work.request, KINDS[type(work)]
    own = next((w for w in fleet.ready_workers(request.model) if w.worker == was.worker), None)
    facts = Facts(
        request_id=request.id,
        model=request.model,
        priority=request.priority,
        may_wait_s=math.inf,
        max_waiting=2**31,
        avoid=avoid,
        kind=kind,
    )
    best = place(fleet, pending, facts)
    if not isinstance(best, Placed) or not best.worker or (own is not None and best.worker == own.worker):
        return None
    if own is None:
        return best
    wait = None if kind.lane else wait_on(own, pending, request.priority)
    may_begin_elsewhere = best.wait_s == 0 and waited_s > _PATIENCE_S
    return best if may_begin_elsewhere and (wait is None or wait.expected_s > _PATIENCE_S) else None


async def keep_moving(dispatcher: Dispatcher, fleet: FleetWatcher) -> None:
    """Look at every waiting job, for ever."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            await move_waiting(dispatcher, fleet.snapshot)
            await dispatcher.wake_again(time.monotonic())
        except BrokerUnavailableError as error:
            logger.debug("waiting requests are not looked at: %s", error)


async def move_waiting(dispatcher: Dispatcher, fleet: Fleet) -> None:
    """One look, oldest first. Raises `BrokerUnavailableError`."""
    dispatcher.note_fleet(fleet)
    for dispatch in dispatcher.waiting():
        waited_s = time.monotonic() - dispatch.attempt.heard_s
        pending = dispatcher.pending(fleet, dispatch.model)
        avoid = dispatcher.reading(dispatch.work, fleet).unable | dispatch.avoided
        to = better_place(fleet, pending, dispatch.attempt.place, dispatch.work, waited_s, avoid=avoid)
        if to is not None:
            await dispatcher.move(dispatch, to)
