"""Where a request goes, how long it will wait, why it is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.facts import Facts, Pending, Placed, Refused
from gateway.dispatch.place import place
from gateway.dispatch.waits import wait_on
from shared.errors import GatewayError
from shared.places import RESERVED_PLACES, free_places
from shared.registry import Fleet, WorkerLease
from shared.request import PRIORITIES, Priority
from shared.work import KINDS, Count, Generate, Kind
from tests.bench.admission import Scenario, Simulation
from tests.support.fleet import lease


def worker(name: str = "w", **fields: Any) -> WorkerLease:
    return lease("m", worker=name, **{"service_s": 2.0, "reserved_places": RESERVED_PLACES, **fields})


def counts(**of: int) -> tuple[int, ...]:
    return tuple(of.get(priority, 0) for priority in PRIORITIES)


def decide(
    *workers: WorkerLease,
    priority: Priority = "interactive",
    may_wait_s: float = 600.0,
    max_waiting: int = 64,
    pending: Pending | None = None,
    avoid: tuple[str, ...] = (),
    kind: Kind = KINDS[Generate],
    request_id: str = "r",
) -> Placed | Refused:
    facts = Facts(
        request_id=request_id,
        model="m",
        priority=priority,
        may_wait_s=may_wait_s,
        max_waiting=max_waiting,
        avoid=frozenset(avoid),
        kind=kind,
    )
    return place(Fleet(workers=workers), pending or Pending(), facts)


def placed(*workers: WorkerLease, **how: Any) -> Placed:
    decided = decide(*workers, **how)
    assert isinstance(decided, Placed)
    return decided


def refusal(*workers: WorkerLease, **how: Any) -> GatewayError:
    decided = decide(*workers, **how)
    assert isinstance(decided, Refused)
    return decided.error


def test_an_idle_worker_takes_a_request_at_once() -> None:
    decided = placed(worker())
    assert (decided.worker, decided.wait_s) == ("w", 0.0)


def test_without_a_worker_the_job_waits_for_the_model() -> None:
    assert placed().worker == ""
    assert placed(worker(state="loading")).worker == ""


@pytest.mark.parametrize("state", ["loading", "draining", "stalled"])
def test_a_worker_that_takes_nothing_gets_nothing(state: str) -> None:
    assert placed(worker("a", state=state), worker("b", held=counts(interactive=4))).worker == "b"


def test_a_worker_that_failed_the_request_does_not_get_it_again() -> None:
    assert placed(worker("a"), worker("b", held=counts(interactive=4)), avoid=("a",)).worker == "b"


def test_the_worker_on_which_it_begins_soonest_is_chosen() -> None:
    busy = worker("a", waiting_s=(30.0, 0.0, 0.0, 0.0))
    assert placed(busy, worker("b", waiting_s=(2.0, 0.0, 0.0, 0.0))).worker == "b"


def test_of_two_idle_workers_the_less_busy_one_is_chosen() -> None:
    assert placed(worker("a", held=counts(side=2)), worker("b", held=counts(side=1))).worker == "b"


def test_a_worker_that_has_measured_nothing_gets_its_share() -> None:
    known = worker("a", held=counts(batch=4), queued=counts(batch=3))
    fresh = worker("b", held=counts(batch=4), service_s=0.0)
    assert placed(known, fresh, priority="batch").worker == "b"


def test_what_waits_on_its_lists_makes_a_worker_busy() -> None:
    assert placed(worker("a", queued=counts(interactive=5)), worker("b", held=counts(interactive=3))).worker == "b"


@pytest.mark.parametrize("kind", [KINDS[Generate], KINDS[Count]])
@pytest.mark.parametrize("held", [0, 4])
def test_a_burst_is_spread_over_equal_workers_though_nobody_sees_the_others_choices(kind: Kind, held: int) -> None:
    """Whichever comes first or is read first."""
    workers = [worker(name, held=counts(batch=held)) for name in "abc"]
    found = Counter(placed(*workers, kind=kind, request_id=f"r{number}").worker for number in range(300))
    assert min(found[name] for name in "abc") > 70
    assert placed(*workers, kind=kind) == placed(*reversed(workers), kind=kind)


def test_only_the_same_class_and_those_before_it_are_ahead() -> None:
    full = worker(held=counts(batch=4), queued=counts(batch=100), waiting_s=(0.0, 0.0, 0.0, 500.0))
    wait = wait_on(full, "interactive")
    assert wait is not None
    assert wait.expected_s == 0.0
    behind = wait_on(full, "batch")
    assert behind is not None
    assert behind.expected_s >= 500.0


def test_the_first_class_passes_the_capacity_where_others_can_be_paused() -> None:
    assert free_places(4, counts(batch=4), "interactive") == RESERVED_PLACES
    assert free_places(4, counts(batch=1, interactive=3), "interactive") == 1
    assert free_places(4, counts(interactive=4), "interactive") == 0
    assert free_places(4, counts(batch=4), "subagent") == 0


def test_a_place_becomes_free_once_per_service_time_and_capacity() -> None:
    full = worker(held=counts(interactive=4), queued=counts(interactive=7), service_s=8.0)
    wait = wait_on(full, "interactive")
    assert wait is not None
    assert wait.expected_s == pytest.approx(7.5 * 2.0)  # the first on average after half a turn


def test_a_wait_longer_than_the_class_may_wait_is_refused_with_the_time_to_ask_again() -> None:
    full = worker(held=counts(interactive=4), queued=counts(interactive=39), service_s=100.0)
    assert isinstance(decide(full, may_wait_s=1000.0), Placed)
    error = refusal(full, may_wait_s=850.0)
    assert (error.details["reason"], error.retry_after_s) == ("wait_too_long", 60)


def test_nothing_is_refused_for_time_while_nothing_was_measured() -> None:
    unknown = worker(held=counts(interactive=4), queued=counts(interactive=50), service_s=0.0)
    assert placed(unknown, may_wait_s=0.001).wait_s is None


def test_counts_hold_while_nothing_was_measured() -> None:
    unknown = worker(held=counts(interactive=4), queued=counts(interactive=3), service_s=0.0)
    assert refusal(unknown, max_waiting=3).details["reason"] == "queue_full"
    assert refusal(pending=Pending(unplaced=counts(side=3)), max_waiting=3).details["reason"] == "queue_full"


def test_running_requests_do_not_count_as_waiting() -> None:
    assert placed(worker(held=counts(interactive=4), queued=counts(interactive=2)), max_waiting=3)


def test_a_queue_that_was_full_and_has_room_now_takes_requests() -> None:
    assert placed(worker(queued=counts(interactive=3)), max_waiting=3)  # four free places


def test_batch_work_leaves_half_of_the_queue_to_people() -> None:
    half = worker(held=counts(batch=4), queued=counts(batch=32))
    assert refusal(half, priority="batch").details["reason"] == "queue_full"
    assert placed(half, priority="side")
    assert placed(half, priority="interactive")


@pytest.mark.parametrize(("service_s", "retry_after_s"), [(0.001, 1), (10_000.0, 60)])
def test_retry_after_stays_between_one_second_and_one_minute(service_s: float, retry_after_s: int) -> None:
    full = worker(held=counts(interactive=4), queued=counts(interactive=3), service_s=service_s)
    assert refusal(full, max_waiting=3).retry_after_s == retry_after_s


WORKERS = st.lists(
    st.builds(
        worker,
        st.sampled_from("abcd"),
        held=st.tuples(*[st.integers(0, 4)] * 4),
        queued=st.tuples(*[st.integers(0, 9)] * 4),
        waiting_s=st.tuples(*[st.floats(0, 100)] * 4),
        service_s=st.floats(0.01, 50),
        prefill_s=st.floats(0, 5),
        service_deviation_s=st.floats(0, 50),
    ),
    max_size=4,
    unique_by=lambda w: w.worker,
)


@given(WORKERS, st.sampled_from(PRIORITIES))
def test_a_higher_class_never_waits_longer(workers: list[WorkerLease], priority: Priority) -> None:
    higher = PRIORITIES[max(0, PRIORITIES.index(priority) - 1)]
    for one in workers:
        first, second = wait_on(one, higher), wait_on(one, priority)
        if first is not None and second is not None:
            assert first.expected_s <= second.expected_s + 1e-9


@given(WORKERS, st.sampled_from(PRIORITIES))
def test_another_worker_never_makes_the_wait_longer(workers: list[WorkerLease], priority: Priority) -> None:
    alone = decide(*workers, priority=priority, max_waiting=10_000, may_wait_s=1e9)
    more = decide(*workers, worker("z"), priority=priority, max_waiting=10_000, may_wait_s=1e9)
    assert isinstance(alone, Placed)
    assert isinstance(more, Placed)
    assert more.wait_s == 0.0 or more.wait_s is None or alone.wait_s is None or more.wait_s <= alone.wait_s


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("clients", "capacity"), [(4, 1), (16, 4), (64, 8)])
def test_in_a_closed_loop_nobody_is_refused_who_would_have_begun_in_time(
    clients: int, capacity: int, spread: float
) -> None:
    scenario = Scenario(clients=clients, capacity=capacity, spread=spread, seconds=60.0)
    outcome = Simulation(scenario).run()
    assert outcome.wrongly_refused == 0
    assert len(outcome.accepted) > clients


def test_a_closed_loop_that_is_too_much_is_refused_and_those_accepted_wait_no_longer_than_they_may() -> None:
    """After the first wave, of which nothing could be known."""
    scenario = Scenario(clients=64, capacity=2, spread=0.0, seconds=240.0)
    outcome = Simulation(scenario).run()
    assert outcome.refused
    assert outcome.wrongly_refused == 0
    later = [j for j in outcome.accepted if j.asked_s > 150 and j.begun_s is not None]
    assert later
    assert max(j.begun_s - j.asked_s for j in later if j.begun_s) < 1.25 * scenario.may_wait_s


# --- beside the batch -----------------------------------------------------------------------------------------------

COUNT = KINDS[Count]


def test_a_count_goes_to_a_worker_however_busy_its_engine_is() -> None:
    full = worker("w", held=counts(interactive=4), queued=counts(interactive=60), waiting_s=(900.0, 0, 0, 0))
    decided = placed(full, kind=COUNT, may_wait_s=30.0)
    assert (decided.lane, decided.worker, decided.wait_s) == ("count", "w", 0.0)


def test_a_count_goes_where_the_fewest_wait_to_be_counted() -> None:
    here, there = worker("a", beside={"count": 3}), worker("b", beside={"count": 1})
    assert placed(here, there, kind=COUNT).worker == "b"


def test_counts_are_bounded_by_their_own_number_alone() -> None:
    waiting = worker("w", beside={"count": 5}, queued=counts(batch=50))
    pending = Pending(unplaced_beside={"count": 2}, unplaced=counts(side=9))
    assert placed(waiting, kind=COUNT, pending=pending, max_waiting=8).worker == "w"
    error = refusal(waiting, kind=COUNT, pending=pending, max_waiting=7)
    assert (error.retryable, error.details["reason"], error.retry_after_s) == (True, "queue_full", 1)
    assert "7 requests to count" in error.message


def test_counts_are_not_in_the_way_of_requests() -> None:
    busy = worker("w", beside={"count": 500})
    pending = Pending(unplaced_beside={"count": 500})
    assert placed(busy, pending=pending, max_waiting=1).wait_s == 0.0


def test_without_a_worker_a_count_waits_for_the_model_in_its_lane() -> None:
    decided = placed(kind=COUNT)
    assert (decided.lane, decided.worker) == ("count", "")


def test_work_goes_only_to_workers_that_take_its_kind() -> None:
    only_counts, does_all = worker("a", kinds=("count",)), worker("b", held=counts(interactive=4))
    assert placed(only_counts, does_all).worker == "b"
    assert placed(only_counts, kind=COUNT).worker == "a"
    error = refusal(only_counts)
    assert (error.code, error.retryable) == ("unsupported_work", False)
