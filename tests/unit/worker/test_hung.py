"""Who hangs with the device in its hands, as a decision."""

from __future__ import annotations

from worker.device.turns import Holder
from worker.host.hung import hung_worker


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
