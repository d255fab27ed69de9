"""When a waiting job goes to another worker, and what the gateway remembers of what it placed."""

from __future__ import annotations

from typing import Any

from gateway.dispatch.ledger import Ledger
from gateway.dispatch.moves import better_place
from gateway.dispatch.place import Pending, Placed
from shared.registry import Fleet, WorkerLease
from shared.request import GenerateRequest
from tests.support.fleet import lease

REQUEST = GenerateRequest(id="r", model="m", messages=())
HERE = Placed(priority="interactive", worker="here")
NOWHERE = Placed(priority="interactive")


def worker(name: str, **fields: Any) -> WorkerLease:
    return lease("m", worker=name, **{"service_s": 10.0, **fields})


BUSY = worker("here", held=(4, 0, 0, 0), queued=(3, 0, 0, 0))
FREE = worker("there")


def target(*workers: WorkerLease, was: Placed = HERE, waited_s: float = 5.0) -> str:
    found = better_place(Fleet(workers=workers), Pending(), was, REQUEST, waited_s)
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
