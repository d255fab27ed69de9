"""The last turns of an event loop of an engine's own."""

from __future__ import annotations

import asyncio

_TURNS = 3  # a connection that is closed, then aborted, then lost


async def settle() -> None:
    """To be awaited before the loop is stopped: what still runs on it is cancelled, and connections that were closed
    just now are seen to end. One whose end the loop does not see leaves its socket open until it is collected."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    for _ in range(_TURNS):
        await asyncio.sleep(0)
