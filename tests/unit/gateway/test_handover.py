"""A host that leaves hands its latest conversations over: who is told, when, and with which leave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.dispatch.handover import handovers
from shared import wire
from shared.registry import Fleet, HostRecord, ModelRecord, Reader, WorkerLease
from tests.support.fleet import lease

STUDIO = HostRecord(
    host="studio", pid=1, models=(ModelRecord(id="m", state="unloaded"),), files="door", is_draining=True, instance="i1"
)


def worker(host: str) -> WorkerLease:
    return lease("m", worker=f"{host}.m.e1", reader=wire.READER)


def told(fleet: Fleet, *done: tuple[str, str]) -> list[tuple[str, int, int]]:
    return [(each.worker, each.part, each.parts) for each in handovers(fleet, set(done))]


def test_each_other_worker_of_the_model_takes_a_part_of_its_own() -> None:
    fleet = Fleet(hosts=(STUDIO,), workers=(worker("air"), worker("mini"), replace(worker("pro"), model="other")))
    assert told(fleet) == [("air.m.e1", 0, 2), ("mini.m.e1", 1, 2)]
    assert told(fleet, ("i1", "air.m.e1")) == [("mini.m.e1", 1, 2)], "once each"


@pytest.mark.parametrize(
    "studio",
    [replace(STUDIO, is_draining=False), replace(STUDIO, files=""), replace(STUDIO, models=())],
    ids=["it stays", "it lends nothing", "it has no model"],
)
def test_nobody_takes_over_from_a_host_that_stays_or_has_nothing(studio: HostRecord) -> None:
    assert not told(Fleet(hosts=(studio,), workers=(worker("air"),)))


def test_nothing_is_taken_over_before_its_workers_have_written_all_and_are_gone() -> None:
    draining = replace(worker("studio"), state="draining")
    assert not told(Fleet(hosts=(STUDIO,), workers=(worker("air"), draining)))


def test_who_leaves_too_or_is_of_a_version_that_does_not_know_it_takes_nothing_over() -> None:
    older = replace(worker("old"), reader=Reader(versions=wire.READER.versions, codes=()))
    mini = replace(STUDIO, host="mini", instance="i2", models=())
    assert not told(Fleet(hosts=(STUDIO, mini), workers=(worker("mini"), older)))
