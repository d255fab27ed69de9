"""When a job that waits goes to another worker: a pure decision, and who looks for it.

A job waits on the list of the worker that was best when it was placed. It moves when there is a worker at last, when
its own takes nothing any more, or when another would give the first token so much sooner that it is worth it, all that
it must compute there included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.facts import Placed, Prospect, Refused
from gateway.dispatch.fleet import FleetWatcher
from shared.beats import until_beat_s
from shared.errors import BrokerUnavailableError
from shared.registry import Fleet

logger = logging.getLogger(__name__)

EVERY_S = 0.25
_IDLE_EVERY_S = 1.0  # while nothing waits
_PATIENCE_S = 1.0  # on a list before another worker is looked at, and between two looks
_TIMES = 2.0
_GAIN_S = 2.0


def better_place(was: Placed, found: Placed | Refused, *, is_served: bool) -> Placed | None:
    """Where the job should go, when it would be placed at `found` now; None to leave it. `is_served`: its worker takes
    jobs."""
    if not isinstance(found, Placed) or not found.worker or found.worker == was.worker:
        return None
    if not was.worker or not is_served:
        return found
    if found.prospect is None:  # beside the batch
        return found if found.wait_s == 0 else None
    here = next((each for each in found.others if each.worker == was.worker), None)
    if here is None:
        return None
    return found if _is_gain(found.prospect, here) else None


def _is_gain(there: Prospect, here: Prospect) -> bool:
    """Also where nothing is known but that one can begin and the other cannot."""
    if there.wait is None:
        return False
    if here.wait is None or (here.wait.expected_s > _PATIENCE_S and not there.wait.is_for_place):
        return not there.wait.is_for_place and there.first_s <= max(here.first_s, there.own_s)
    return there.first_s * _TIMES < here.first_s and here.first_s - there.first_s > _GAIN_S


async def keep_moving(dispatcher: Dispatcher, fleet: FleetWatcher) -> None:
    """Look at every waiting job, for ever."""
    looked_s: dict[str, float] = {}
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until_beat_s(EVERY_S if dispatcher.waiting() else _IDLE_EVERY_S)):
                await dispatcher.has_changed.wait()
        dispatcher.has_changed.clear()
        try:
            await move_waiting(dispatcher, fleet.snapshot, looked_s)
            await dispatcher.wake_again(time.monotonic())
        except BrokerUnavailableError as error:
            logger.debug("waiting requests are not looked at: %s", error)


async def move_waiting(dispatcher: Dispatcher, fleet: Fleet, looked_s: dict[str, float]) -> None:
    """One look, oldest first; `looked_s` remembers when each was looked at. Raises `BrokerUnavailableError`."""
    dispatcher.forget_the_gone(fleet)
    waiting = dispatcher.waiting()
    ids = {dispatch.request_id for dispatch in waiting}
    for gone in looked_s.keys() - ids:
        del looked_s[gone]
    for dispatch in waiting:
        if not _is_due(dispatch, fleet, looked_s):
            continue
        looked_s[dispatch.request_id] = time.monotonic()
        _, found = await dispatcher.place_again(dispatch)
        to = better_place(dispatch.attempt.place, found, is_served=_is_served(dispatch, fleet))
        if to is not None:
            await dispatcher.move(dispatch, to)


def _is_due(dispatch: Dispatch, fleet: Fleet, looked_s: dict[str, float]) -> bool:
    """At once while nobody will take it; else not before it has waited, and not all the time."""
    if not _is_served(dispatch, fleet):
        return bool(fleet.ready_workers(dispatch.model))
    since_s = max(dispatch.attempt.heard_s, looked_s.get(dispatch.request_id, 0.0))
    return time.monotonic() - since_s > _PATIENCE_S and len(fleet.ready_workers(dispatch.model)) > 1


def _is_served(dispatch: Dispatch, fleet: Fleet) -> bool:
    name = dispatch.attempt.place.worker
    return any(worker.worker == name for worker in fleet.ready_workers(dispatch.model))
