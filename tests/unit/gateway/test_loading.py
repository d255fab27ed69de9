"""Which hosts load a model that was asked for."""

from __future__ import annotations

from gateway.dispatch.loading import hosts_to_load
from shared.registry import Fleet, HostRecord, ModelRecord, ModelState


def host(name: str, state: ModelState, *, copies: int = 1, memory: float = 0.0) -> HostRecord:
    record = ModelRecord(id="qwen", state=state, copies=copies)
    return HostRecord(host=name, pid=1, models=(record,), figures={"memory_available_bytes": memory})


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
