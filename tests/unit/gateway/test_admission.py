from __future__ import annotations

import pytest

from gateway.dispatch.admission import History, Load, admit, predicted_wait_s, queue_of
from shared.errors import OverloadedError
from shared.registry import Fleet
from tests.support.fleet import lease

ONE = Fleet(workers=(lease("m", capacity=4),))


def check(
    fleet: Fleet = ONE, *, queued: int = 0, outstanding: int = 0, service_s: float = 2.0, deadline_s: float = 600
) -> None:
    load = Load(queued=queued, outstanding=outstanding, service_s=service_s)
    admit(fleet, "m", load, max_queue=3, deadline_s=deadline_s)


def refusal(fleet: Fleet = ONE, **arguments: float) -> OverloadedError:
    with pytest.raises(OverloadedError) as raised:
        check(fleet, **arguments)  # type: ignore[arg-type]
    return raised.value


def test_an_idle_model_takes_requests() -> None:
    check()


def test_running_requests_do_not_count_as_waiting() -> None:
    check(outstanding=4 + 2)


def test_one_request_more_than_batch_and_queue_hold_is_refused() -> None:
    assert refusal(outstanding=4 + 3).details["reason"] == "queue_full"


def test_batch_work_leaves_half_of_the_queue_to_people() -> None:
    assert queue_of("batch", 64) == 32
    assert queue_of("batch", 1) == 1
    assert {queue_of(priority, 64) for priority in ("interactive", "subagent", "side")} == {64}


def test_the_queue_that_all_gateways_share_counts_too() -> None:
    check(queued=2)
    assert refusal(queued=3).details["reason"] == "queue_full"


def test_a_model_without_a_ready_worker_has_a_queue_but_no_slots() -> None:
    loading = Fleet(workers=(lease("m", state="loading"),))
    check(loading, outstanding=2)
    refusal(loading, outstanding=3)


def test_retry_after_is_the_time_until_there_is_room_again() -> None:
    assert refusal(queued=3, service_s=20).retry_after_s == 5  # four slots: one leaves every 5 s
    assert refusal(queued=5, service_s=20).retry_after_s == 15


@pytest.mark.parametrize(("service_s", "retry_after_s"), [(0.001, 1), (10_000, 60)])
def test_retry_after_stays_between_one_second_and_one_minute(service_s: float, retry_after_s: int) -> None:
    assert refusal(queued=3, service_s=service_s).retry_after_s == retry_after_s


def test_a_wait_longer_than_the_class_may_wait_is_refused() -> None:
    check(queued=2, service_s=100, deadline_s=50)
    error = refusal(queued=2, service_s=100, deadline_s=40)
    assert error.details["reason"] == "wait_too_long"
    assert error.retry_after_s == 10


def test_the_wait_counts_the_prompts_of_the_least_busy_worker() -> None:
    busy = lease("m", worker="a", waiting_tokens=90_000, prefill_tokens_per_s=1000.0)
    free = lease("m", worker="b", waiting_tokens=5_000, prefill_tokens_per_s=500.0)
    assert predicted_wait_s(Fleet(workers=(busy,)), "m", waiting=0, move_s=1) == 90
    assert predicted_wait_s(Fleet(workers=(busy, free)), "m", waiting=2, move_s=1) == 12


def test_service_times_follow_what_happens() -> None:
    history = History()
    guess_s = history.service_s("m")
    history.note("m", 100.0)
    assert history.service_s("m") == 100.0 != guess_s
    for _ in range(50):
        history.note("m", 1.0)
    assert history.service_s("m") == pytest.approx(1.0, abs=0.01)
    assert history.last_model == "m"
