"""How late this process's event loop comes to what is due: whatever holds it up holds up every stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 1.0


async def keep_measuring_lag(note: Callable[[float], None]) -> None:
    """Tell, for ever, by how many seconds the loop was late."""
    while True:
        due_s = time.monotonic() + EVERY_S
        await asyncio.sleep(EVERY_S)
        note(max(0.0, time.monotonic() - due_s))
