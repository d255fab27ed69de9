"""Which worker hangs with the device in its hands, so that its neighbours wait for ever: a pure decision."""

from __future__ import annotations

from collections.abc import Collection

from worker.device.turns import Holder

# A worker whose threads still run ends itself after `stall_s`, and tells its clients so. It comes first.
_GRACE_S = 2.0


def hung_worker(holder: Holder | None, pids: Collection[int], *, stall_s: float, now_s: float) -> int | None:
    """The process of `pids`, this host's workers, that has been at one piece of work at the device for longer than
    `stall_s`. `now_s` is on the host's monotonic clock."""
    if holder is None or holder.pid not in pids or now_s - holder.since_s <= stall_s + _GRACE_S:
        return None
    return holder.pid
