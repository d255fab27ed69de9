"""How far the clock of this machine is from that of Redis, by which the clocks of all hosts can be compared."""

from __future__ import annotations

import time
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

EVERY_S: Final = 10.0


class ClockOffset:
    """Asks at most every `EVERY_S`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._asked_s = -EVERY_S
        self._figures: dict[str, float] = {}

    async def read(self) -> dict[str, float]:
        """By the keys of `shared.worker_metrics.HOST_FIGURES`; empty before Redis has said its time."""
        if time.monotonic() - self._asked_s < EVERY_S:
            return self._figures
        self._asked_s = time.monotonic()
        try:
            sent_s = time.time()
            seconds, micros = await self._redis.time()
            self._figures = {"clock_offset_seconds": offset_s(sent_s, time.time(), int(seconds) + int(micros) / 1e6)}
        except (RedisError, OSError):  # which the host's own sign of life tells of
            return self._figures
        return self._figures


def offset_s(sent_s: float, came_s: float, theirs_s: float) -> float:
    """Seconds that we are ahead: they are taken to have looked in the middle of the round trip."""
    return (sent_s + came_s) / 2 - theirs_s
