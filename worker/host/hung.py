"""Which worker hangs with the device in its hands, so that its neighbours wait for ever: a pure decision."""

from __future__ import annotations

from collections.abc import Callable, Collection

import psutil

from worker.device.turns import Holder

# A worker whose threads still run ends itself after `stall_s`, and tells its clients so. It comes first.
_GRACE_S = 2.0


def hung_worker(holder: Holder | None, pids: Collection[int], *, stall_s: float, now_s: float) -> int | None:
    """The process of `pids`, this host's workers, that has been at one piece of work at the device for longer than
    `stall_s`. `now_s` is on the host's monotonic clock."""
    if holder is None or holder.pid not in pids or now_s - holder.since_s <= stall_s + _GRACE_S:
        return None
    return holder.pid


class StoppedWorkers:
    """Which workers were stopped by a signal (SIGSTOP), and go on by themselves no more: since when. `is_stopped` asks
    the system."""

    def __init__(self, is_stopped: Callable[[int], bool] | None = None) -> None:
        self._is_stopped = is_stopped or self._ask
        self._since_s: dict[int, float] = {}
        self._processes: dict[int, psutil.Process] = {}  # each found once: that costs more than to ask it

    def find(self, pids: Collection[int], *, stall_s: float, now_s: float) -> list[int]:
        """Those of these processes that have stood still for longer than `stall_s`."""
        stopped = [pid for pid in pids if self._is_stopped(pid)]
        self._since_s = {pid: self._since_s.get(pid, now_s) for pid in stopped}
        self._processes = {pid: each for pid, each in self._processes.items() if pid in pids}
        return [pid for pid, since_s in self._since_s.items() if now_s - since_s > stall_s]

    def _ask(self, pid: int) -> bool:
        try:
            if pid not in self._processes:
                self._processes[pid] = psutil.Process(pid)
            return bool(self._processes[pid].status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            self._processes.pop(pid, None)
            return False
