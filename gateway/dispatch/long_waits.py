"""One line in the log when a request begins to wait long, so that silence has an explanation before it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.dispatcher import Dispatcher
from shared.beats import until_beat_s

logger = logging.getLogger(__name__)

LONG_S: Final = 5.0
_LOOK_EVERY_S: Final = 1.0


async def keep_telling_long_waits(dispatcher: Dispatcher) -> None:
    """For ever."""
    told: set[str] = set()
    while True:
        await asyncio.sleep(until_beat_s(_LOOK_EVERY_S))
        told = tell_long_waits(dispatcher.waiting(), told, now_s=time.monotonic())


def tell_long_waits(waiting: list[Dispatch], told: set[str], *, now_s: float) -> set[str]:
    """Tell of those that have waited long and were not told of; the ids of all that were and still wait."""
    late = [dispatch for dispatch in waiting if now_s - dispatch.opened_s >= LONG_S]
    for dispatch in late:
        if dispatch.request_id not in told:
            logger.info("%s", describe_wait(dispatch, now_s=now_s))
    return {dispatch.request_id for dispatch in late}


def describe_wait(dispatch: Dispatch, *, now_s: float) -> str:
    place = dispatch.attempt.place
    where = f"for {place.worker} ({place.reason})" if place.worker else "until a worker holds the model"
    predicted = "" if place.wait_s is None else f", {place.wait_s:.0f} s were predicted"
    return (
        f"{dispatch.request_id} waits long: class {dispatch.request.priority}, model {dispatch.model}, "
        f"{now_s - dispatch.opened_s:.0f} s so far {where}{predicted}; it may wait {dispatch.remaining_s:.0f} s more"
    )
