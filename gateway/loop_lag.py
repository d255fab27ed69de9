"""How late this process's event loop comes to what is due: whatever holds it up holds up every stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from shared.beats import until_beat_s

EVERY_S: Final = 1.0


async def keep_measuring_lag(note: Callable[[float], None]) -> None:
    """Tell, for ever, by how many seconds the loop was late."""
    while True:
        pause_s = until_beat_s(EVERY_S)
        due_s = time.monotonic() + pause_s
        await asyncio.sleep(pause_s)
        note(max(0.0, time.monotonic() - due_s))
