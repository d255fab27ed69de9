"""When a waiting job goes to another worker, and what the gateway remembers of what it placed."""

from __future__ import annotations

from typing import Any

from gateway.dispatch.ledger import Ledger
from gateway.dispatch.moves import better_place
from gateway.dispatch.place import Pending, Placed
from shared.registry import Fleet, WorkerLease
from shared.request import GenerateRequest
from shared.work import Count, Generate, Work
from tests.support.fleet import lease

REQUEST = GenerateRequest(id="r", model="m", messages=())
WORK = Generate(request=REQUEST)
HERE = Placed(lane="interactive", worker="here")
NOWHERE = Placed(lane="interactive")


def worker(name: str, **fields: Any) -> WorkerLease:
    return lease("m", worker=name, **{"service_s": 10.0, **fields})


BUSY = worker("here", held=(4, 0, 0, 0), queued=(3, 0, 0, 0))
FREE = worker("there")


def target(*workers: WorkerLease, was: Placed = HERE, waited_s: float = 5.0, work: Work = WORK) -> str:
    found = better_place(Fleet(workers=workers), Pending(), was, work, waited_s)
    return "" if found is None else found.worker


def test_a_job_that_waited_for_the_model_goes_to_the_first_worker_that_holds_it() -> None:
    assert target(was=NOWHERE) == ""
    assert target(worker("there", state="loading"), was=NOWHERE) == ""
    assert target(FREE, was=NOWHERE, waited_s=0) == "there"


def test_the_job_of_a_worker_that_takes_nothing_any_more_goes_to_another() -> None:
    for gone in ((), (worker("here", state="draining"),), (worker("here", state="stalled"),)):
        assert target(*gone, FREE, waited_s=0) == "there"
    assert target(worker("here", state="draining")) == ""


def test_a_job_moves_to_a_worker_that_can_begin_at_once_while_its_own_cannot() -> None:
    assert target(BUSY, FREE) == "there"


def test_a_job_stays_where_it_will_begin_soon_or_where_moving_gains_nothing() -> None:
    assert target(BUSY, FREE, waited_s=0.5) == "", "it has only just been placed"
    assert target(worker("here"), FREE) == "", "its own worker can begin"
    assert target(BUSY, worker("there", held=(4, 0, 0, 0), queued=(1, 0, 0, 0))) == "", "nobody can begin"


def test_a_lease_shows_what_was_placed_before_it() -> None:
    ledger = Ledger()
    for number, priority in ((1, "interactive"), (2, "batch"), (4, "batch")):
        ledger.note("w", number, priority)  # type: ignore[arg-type]
    assert ledger.since([worker("w", placed=4)]) == {}
    assert ledger.since([worker("w", placed=2)]) == {"w": (0, 0, 0, 1)}
    assert ledger.since([worker("w", placed=0)]) == {"w": (1, 0, 0, 2)}, "a count that was younger forgets nothing"


def test_what_is_on_its_way_to_a_list_counts_until_it_is_there() -> None:
    """It has no number yet: a count of the lists may hold it or not."""
    ledger = Ledger()
    ledger.note("w", 1, "batch")
    shown = worker("w", placed=1)
    with ledger.coming("w", "batch"), ledger.coming("w", "count"):
        assert ledger.since([shown, worker("v")], with_coming=True) == {"w": (0, 0, 0, 1)}
        assert ledger.since_beside([shown], with_coming=True) == {"w": {"count": 1}}
        assert ledger.since([shown]) == {}
        assert ledger.up_to(shown, worker("w", placed=2, queued=(0, 0, 0, 1))).held == (0, 0, 0, 0), "nobody took it"
    assert ledger.since([shown], with_coming=True) == {}


def test_what_a_lease_shows_and_who_is_gone_is_forgotten() -> None:
    ledger = Ledger()
    for name in ("a", "b"):
        ledger.note(name, 1, "interactive")
        ledger.note(name, 2, "interactive")
    ledger.forget([worker("b", placed=1)])
    assert ledger.since([worker("a"), worker("b")]) == {"b": (1, 0, 0, 0)}


def test_what_has_left_a_list_since_the_lease_holds_a_place() -> None:
    """Else a count of the lists that is younger than the lease would find places free that are taken."""
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.note("w", number, "interactive")
    shown = worker("w", placed=0, held=(0, 0, 0, 0), queued=(0, 0, 0, 1))
    counted = worker("w", placed=3, queued=(2, 0, 0, 0))
    assert ledger.up_to(shown, counted).held == (1, 0, 0, 1)
    assert ledger.up_to(shown, counted).queued == (2, 0, 0, 0)


# --- beside the batch -----------------------------------------------------------------------------------------------

COUNTED = Count(request=REQUEST)


def test_a_count_moves_as_other_jobs_do() -> None:
    waiting = worker("here", beside={"count": 1}, held=(4, 0, 0, 0))
    assert target(FREE, was=Placed(lane="count"), work=COUNTED, waited_s=0) == "there", "a worker holds the model now"
    assert target(worker("here", state="draining"), FREE, work=COUNTED, waited_s=0) == "there"
    assert target(waiting, FREE, work=COUNTED, waited_s=0.5) == "", "it has only just been placed"
    assert target(waiting, FREE, work=COUNTED) == "there"
    assert target(waiting, worker("there", beside={"count": 2}), work=COUNTED) == ""
    assert target(waiting, worker("there", kinds=("generate",)), work=COUNTED) == ""


def test_counts_are_remembered_apart_until_a_lease_shows_them() -> None:
    ledger = Ledger()
    ledger.note("w", 1, "count")
    ledger.note("w", 2, "interactive")
    ledger.note("w", 3, "count")
    assert ledger.since([worker("w", placed=0)]) == {"w": (1, 0, 0, 0)}
    assert ledger.since_beside([worker("w", placed=1)]) == {"w": {"count": 1}}
    assert ledger.since_beside([worker("w", placed=3)]) == {}
