"""A Mac leaves the fleet and nothing is lost: what runs finishes, what has not begun goes elsewhere, and for a while it
lends what its conversations have in files to the hosts that go on with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from worker.host.lending import Lender
from worker.host.supervision import ModelSupervisor

logger = logging.getLogger(__name__)

FINISH_S = 1800.0  # for what runs: an agent's longest turns
LEND_S = 60.0
_LOOK_S = 0.1


async def leave(
    supervisors: Mapping[str, ModelSupervisor],
    lender: Lender,
    *,
    is_alone: Callable[[], Awaitable[bool]],
    finish_s: float = FINISH_S,
    lend_s: float = LEND_S,
) -> None:
    """Returns when nobody needs this host any more. `is_alone` says whether there is no other host. Workers write what
    they keep before they end."""
    for supervisor in supervisors.values():
        supervisor.unload()
    if not await _within(finish_s, lambda: _is_idle(supervisors)):
        logger.warning("not all that runs has finished within %.0f s: the host leaves all the same", finish_s)
        return

    async def is_needless() -> bool:
        return not lender.has_something or await is_alone()

    await _within(lend_s, is_needless)


async def _is_idle(supervisors: Mapping[str, ModelSupervisor]) -> bool:
    return not any(supervisor.pid for supervisor in supervisors.values())


async def _within(timeout_s: float, is_done: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it was so in time."""
    end_s = asyncio.get_running_loop().time() + timeout_s
    while not await is_done():
        if asyncio.get_running_loop().time() > end_s:
            return False
        await asyncio.sleep(_LOOK_S)
    return True
