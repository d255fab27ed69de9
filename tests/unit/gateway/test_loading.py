"""Which hosts load a model that was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dispatch.loading import hosts_to_load
from shared.registry import Fleet, HostRecord, ModelRecord, ModelState, WorkerLease
from tests.support.fleet import lease


def host(name: str, state: ModelState, *, copies: int = 1, memory: float = 0.0) -> HostRecord:
    record = ModelRecord(id="qwen", state=state, copies=copies)
    return HostRecord(host=name, pid=1, models=(record,), figures={"memory_available_bytes": memory})


def mac(name: str, *models: ModelRecord, memory: float = 100.0, is_draining: bool = False) -> HostRecord:
    figures = {"memory_available_bytes": memory}
    return HostRecord(host=name, pid=1, models=models, figures=figures, is_draining=is_draining)


def wanted(**fields: Any) -> ModelRecord:
    return ModelRecord(id="qwen", **{"state": "unloaded", "needed_bytes": 80, **fields})


def loaded(name: str, **fields: Any) -> ModelRecord:
    return ModelRecord(id=name, state="ready", needed_bytes=60, **fields)


def chosen(*hosts: HostRecord, workers: tuple[WorkerLease, ...] = ()) -> tuple[str, ...]:
    return hosts_to_load(Fleet(hosts=hosts, workers=workers), "qwen", most=1)


def test_one_host_is_asked_where_nothing_bounds_it_the_one_that_loads_it_soonest() -> None:
    assert chosen(mac("a", wanted(load_s=40)), mac("b", wanted(load_s=5))) == ("b",)
    assert chosen(mac("a", wanted(load_s=40)), mac("b", wanted())) == ("b",), (
        "a new one is expected to take ten seconds"
    )


def test_what_would_have_to_go_for_it_counts() -> None:
    full = mac("full", wanted(load_s=5), loaded("other", load_s=60), memory=30)
    assert chosen(full, mac("free", wanted(load_s=40))) == ("free",)
    assert chosen(full, mac("free", wanted(load_s=90))) == ("full",), "it is soon enough to bring the other back"


@pytest.mark.parametrize("reason", ["pinned", "at work"])
def test_what_cannot_go_leaves_no_room(reason: str) -> None:
    other = loaded("other", is_pinned=reason == "pinned")
    at_work = (lease("other", worker="full.other.1", host="full", in_flight=1),) if reason == "at work" else ()
    full = mac("full", wanted(load_s=5), other, memory=30)
    assert chosen(full, mac("free", wanted(load_s=90)), workers=at_work) == ("free",)


def test_a_host_that_leaves_is_not_asked() -> None:
    assert chosen(mac("a", wanted(load_s=1), is_draining=True), mac("b", wanted(load_s=9))) == ("b",)


def test_without_a_bound_all_are_asked() -> None:
    assert hosts_to_load(Fleet(hosts=(host("a", "available", copies=0),)), "qwen") == ()
    assert hosts_to_load(Fleet(), "qwen") == ()


def test_the_one_with_the_most_free_memory_is_asked() -> None:
    fleet = Fleet(hosts=(host("a", "available", memory=1), host("b", "unloaded", memory=2), host("c", "available")))
    assert hosts_to_load(fleet, "qwen") == ("b",)
    two = Fleet(hosts=tuple(host(each.host, "available", copies=2, memory=i) for i, each in enumerate(fleet.hosts)))
    assert hosts_to_load(two, "qwen") == ("c", "b")


def test_who_has_it_counts_and_who_had_no_memory_comes_last() -> None:
    fleet = Fleet(hosts=(host("a", "loading"), host("b", "available", memory=9)))
    assert hosts_to_load(fleet, "qwen") == ("a",)
    fleet = Fleet(hosts=(host("a", "no_memory", memory=9), host("b", "available")))
    assert hosts_to_load(fleet, "qwen") == ("b",)
    assert hosts_to_load(Fleet(hosts=(host("a", "failed"),)), "qwen") == ()
