"""When to look again: all that looks now and then does so at the same moments, so that it takes one waking for all.

The moments are multiples of the period on the clock that all processes of a machine share, so that these meet, too.
"""

from __future__ import annotations

import time

_LEAST = 0.1  # of the period: who has just looked does not look again at once


def until_beat_s(every_s: float, now_s: float | None = None) -> float:
    """Seconds until the next multiple of `every_s` on the monotonic clock, or until the one after, where that is nearer
    than a tenth of it."""
    gone_s = (time.monotonic() if now_s is None else now_s) % every_s
    left_s = every_s - gone_s
    return left_s if left_s >= every_s * _LEAST else left_s + every_s
