"""How much a worker takes at a time, and who makes place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.request import PRIORITIES, Priority
from worker.rq.gate import AHEAD_S, Quota, may_take, quotas
from worker.rq.once import RunOnce
from worker.rq.pauses import Pauses
from worker.serving.service_time import RunningMean
from worker.serving.ticket import Ticket

QUIET = (0.0, 0.0, 0.0, 0.0)


def gate(
    held: tuple[int, ...] = (0, 0, 0, 0),
    ahead_s: tuple[float, ...] = QUIET,
    *,
    reserved: int = 2,
) -> list[Quota]:
    return quotas(capacity=4, reserved=reserved, held=held, ahead_s=ahead_s)


def test_an_idle_worker_takes_as_many_as_it_has_places() -> None:
    assert gate() == [Quota(4, AHEAD_S)] * 4


def test_the_first_class_may_take_reserved_places_from_those_that_can_be_paused() -> None:
    assert [quota.most for quota in gate((0, 0, 0, 4))] == [2, 0, 0, 0]
    assert [quota.most for quota in gate((0, 0, 0, 4), reserved=0)] == [0, 0, 0, 0]
    assert [quota.most for quota in gate((4, 0, 0, 0))] == [0, 0, 0, 0]


def test_prefill_of_its_own_class_and_of_those_before_it_closes_the_gate_for_a_class() -> None:
    ahead = [quota.ahead_s for quota in gate(ahead_s=(0.0, AHEAD_S, 0.0, 0.0))]
    assert ahead == [AHEAD_S, 0, 0, 0]


def test_what_may_be_taken_shrinks_with_what_is_ahead() -> None:
    assert gate(ahead_s=(AHEAD_S / 2, 0, 0, 0))[0].ahead_s == AHEAD_S / 2


def test_redis_is_not_asked_again_and_again_for_what_has_no_place() -> None:
    """Batch work holds all places and waits: nobody of the first class, for whom there are some, is there."""
    full = gate((0, 0, 0, 4))
    assert not may_take(full, (0, 0, 0, 196))
    assert may_take(full, (1, 0, 0, 196))
    assert may_take(full), "whoever rings may be of the first class"
    assert not may_take(gate((4, 0, 0, 0))), "there are places for nobody"
    assert not may_take(gate(ahead_s=(0.0, 0.0, 0.0, AHEAD_S)), (0, 0, 0, 1))


def test_the_latest_of_the_lowest_class_is_paused_and_goes_on_first_when_there_is_a_place() -> None:
    pauses = Pauses()
    held: dict[str, Priority] = {"b1": "batch", "s1": "side", "b2": "batch"}
    assert pauses.choose(held, held.keys(), 3) == []
    held["main"] = "interactive"
    assert pauses.choose(held, held.keys(), 3) == ["b2"]
    assert pauses.choose(held, held.keys(), 3) == []
    held["main2"] = "interactive"
    assert pauses.choose(held, held.keys(), 3) == ["b1"]
    del held["main"]
    assert pauses.choose(held, held.keys(), 3) == [], "b2 goes on"
    held["main3"] = "interactive"
    assert pauses.choose(held, held.keys(), 3) == ["b2"]


def test_who_is_not_in_the_engine_yet_cannot_be_paused() -> None:
    held: dict[str, Priority] = {"b1": "batch", "b2": "batch", "main": "interactive"}
    assert Pauses().choose(held, {"b1", "main"}, 1) == ["b1"]


def test_nobody_is_paused_for_who_is_not_in_the_engine_yet() -> None:
    held: dict[str, Priority] = {"b1": "batch", "b2": "batch", "main": "interactive"}
    pauses = Pauses()
    assert pauses.choose(held, {"b1", "b2"}, 2) == []
    assert pauses.choose(held, {"b1", "b2", "main"}, 2) == ["b2"]


@given(st.lists(st.tuples(st.sampled_from(PRIORITIES), st.booleans()), max_size=30))
def test_no_more_run_than_there_are_places_while_somebody_can_be_paused(
    steps: list[tuple[Priority, bool]],
) -> None:
    pauses, held, paused = Pauses(), {}, []
    for number, (priority, leaves) in enumerate(steps):
        if leaves and held:
            gone = next(iter(held))
            del held[gone]
        else:
            held[str(number)] = priority
        paused = [name for name in paused if name in held]
        while paused and len(held) - len(paused) < 3:  # as the engine does
            paused.pop(0)
        paused += pauses.choose(held, held.keys(), 3)
        pausable = [name for name in held if held[name] != "interactive" and name not in paused]
        assert len(held) - len(paused) <= 3 or not pausable
        assert len(set(paused)) == len(paused)


def test_a_ticket_is_taken_once() -> None:
    once = RunOnce()
    assert once.take(Ticket("r", 1, "s"), 0.0)
    assert not once.take(Ticket("r", 1, "s"), 10.0)
    assert once.take(Ticket("r", 2, "t"), 10.0)
    assert once.take(Ticket("r", 1, "s"), 5000.0), "by then its deadline refuses it"


def test_a_mean_follows_what_is_observed() -> None:
    mean = RunningMean()
    assert (mean.mean, mean.deviation) == (0.0, 0.0)
    for value in (1.0, 3.0, 1.0, 3.0):
        mean.observe(value)
    assert (mean.mean, round(mean.deviation, 6)) == (2.0, 1.0)
    for _ in range(100):
        mean.observe(10.0)
    assert abs(mean.mean - 10.0) < 0.1
    assert mean.deviation < 0.5
