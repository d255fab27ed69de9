"""Who hangs with the device in its hands, or was stopped by a signal, as decisions."""

from __future__ import annotations

import os
import signal
import subprocess

from tests.support.processes import wait_until
from worker.device.turns import Holder
from worker.host.hung import StoppedWorkers, hung_worker


def hung(holder: Holder | None, now_s: float, *pids: int) -> int | None:
    return hung_worker(holder, pids, stall_s=60.0, now_s=now_s)


def test_a_worker_that_is_at_one_piece_of_work_for_too_long_hangs() -> None:
    holder = Holder(pid=7, since_s=100.0)
    assert hung(holder, 159.0, 6, 7) is None
    assert hung(holder, 161.0, 6, 7) is None, "it would end itself now, and tell its clients"
    assert hung(holder, 163.0, 6, 7) == 7


def test_nobody_hangs_who_has_not_the_device_or_is_not_of_this_host() -> None:
    assert hung(None, 1e6, 7) is None
    assert hung(Holder(pid=8, since_s=0.0), 1e6, 7) is None


def test_a_worker_that_a_signal_has_stopped_is_found_after_a_while_and_one_that_went_on_is_not() -> None:
    stopped = {1, 2}
    found = StoppedWorkers(stopped.__contains__)
    assert found.find([1, 2, 3], stall_s=5, now_s=100) == []
    stopped.remove(2)
    assert found.find([1, 2, 3], stall_s=5, now_s=103) == []
    stopped.add(2)
    assert found.find([1, 2, 3], stall_s=5, now_s=105.1) == [1]
    assert found.find([2, 3], stall_s=5, now_s=110) == []
    assert found.find([2, 3], stall_s=5, now_s=110.2) == [2]


def test_the_system_tells_who_is_stopped() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            os.kill(process.pid, signal.SIGSTOP)
            found = StoppedWorkers()
            wait_until(lambda: found.find([process.pid], stall_s=-1, now_s=0) == [process.pid], "it is seen")
            os.kill(process.pid, signal.SIGCONT)
            wait_until(lambda: found.find([process.pid], stall_s=-1, now_s=0) == [], "it goes on")
        finally:
            process.kill()
