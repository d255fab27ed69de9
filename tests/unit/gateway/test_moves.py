"""When a waiting job goes to another worker."""

from __future__ import annotations

import math
from typing import Any

from gateway.dispatch.facts import Facts, Pending, Placed
from gateway.dispatch.moves import better_place
from gateway.dispatch.place import place
from shared.registry import Fleet, WorkerLease
from shared.request import GenerateRequest
from shared.work import KINDS, Count, Generate, Work
from tests.support.fleet import lease

REQUEST = GenerateRequest(id="r", model="m", messages=())
WORK = Generate(request=REQUEST)
HERE = Placed(lane="interactive", worker="here")
NOWHERE = Placed(lane="interactive")


def worker(name: str, **fields: Any) -> WorkerLease:
    return lease("m", worker=name, **{"service_s": 10.0, **fields})


BUSY = worker("here", held=(4, 0, 0, 0), queued=(3, 0, 0, 0))
FREE = worker("there")


def target(*workers: WorkerLease, was: Placed = HERE, work: Work = WORK) -> str:
    facts = Facts(
        request_id="r",
        model="m",
        priority="interactive",
        may_wait_s=math.inf,
        max_waiting=2**31,
        kind=KINDS[type(work)],
    )
    fleet = Fleet(workers=workers)
    is_served = was.worker in {each.worker for each in fleet.ready_workers("m")}
    found = better_place(was, place(fleet, Pending(), facts), is_served=is_served)
    return "" if found is None else found.worker


def test_a_job_that_waited_for_the_model_goes_to_the_first_worker_that_holds_it() -> None:
    assert target(was=NOWHERE) == ""
    assert target(worker("there", state="loading"), was=NOWHERE) == ""
    assert target(FREE, was=NOWHERE) == "there"


def test_the_job_of_a_worker_that_takes_nothing_any_more_goes_to_another() -> None:
    for gone in ((), (worker("here", state="draining"),), (worker("here", state="stalled"),)):
        assert target(*gone, FREE) == "there"
    assert target(worker("here", state="draining")) == ""


def test_a_job_moves_to_a_worker_that_can_begin_at_once_while_its_own_cannot() -> None:
    assert target(BUSY, FREE) == "there"


def test_a_job_stays_where_it_will_begin_soon_or_where_moving_gains_nothing() -> None:
    assert target(worker("here"), FREE) == "", "its own worker can begin"
    assert target(BUSY, worker("there", held=(4, 0, 0, 0), queued=(2, 0, 0, 0))) == "", "not half the wait"


def test_a_job_moves_to_a_worker_whose_list_is_so_much_shorter_that_it_is_worth_it() -> None:
    """Although nobody can begin at once."""
    assert target(BUSY, worker("there", held=(4, 0, 0, 0), queued=(0, 0, 0, 0))) == "there"


# --- beside the batch -----------------------------------------------------------------------------------------------

COUNTED = Count(request=REQUEST)


def test_a_count_moves_as_other_jobs_do() -> None:
    waiting = worker("here", beside={"count": 1}, held=(4, 0, 0, 0))
    assert target(FREE, was=Placed(lane="count"), work=COUNTED) == "there", "a worker holds the model now"
    assert target(worker("here", state="draining"), FREE, work=COUNTED) == "there"
    assert target(waiting, FREE, work=COUNTED) == "there"
    assert target(waiting, worker("there", beside={"count": 2}), work=COUNTED) == ""
    assert target(waiting, worker("there", kinds=("generate",)), work=COUNTED) == ""
