"""Models of one name on several hosts: the same files are one model, others are told apart."""

from __future__ import annotations

from dataclasses import replace

from gateway.dispatch.identities import told_apart
from shared.registry import Fleet, HostRecord, ModelRecord, WorkerLease
from tests.support.fleet import lease


def worker(host: str, identity: str, model: str = "qwen") -> WorkerLease:
    return replace(lease(model), worker=f"{host}.{model}.e1", host=host, identity=identity)


def host(name: str, *models: str) -> HostRecord:
    return HostRecord(host=name, pid=1, models=tuple(ModelRecord(id=model, state="ready") for model in models))


def fleet(*workers: WorkerLease) -> Fleet:
    return Fleet(workers=workers, hosts=tuple(host(each.host, each.model) for each in workers))


def test_the_same_files_are_one_model_wherever_they_lie() -> None:
    one = fleet(worker("mac1", "a"), worker("mac2", "a"))
    assert told_apart(one) is one
    named = fleet(worker("mac1", "a"), worker("mac2", "a", model="org/qwen"))
    assert {each.host for each in told_apart(named).ready_workers("qwen")} == {"mac1", "mac2"}
    assert {each.host for each in told_apart(named).ready_workers("org/qwen")} == {"mac1", "mac2"}


def test_what_is_not_known_is_not_told_apart() -> None:
    unknown = fleet(worker("mac1", ""), worker("mac2", "a"), worker("mac3", ""))
    assert told_apart(unknown) is unknown


def test_other_files_under_the_same_name_are_served_under_another_and_it_says_so() -> None:
    found = told_apart(fleet(worker("mac1", "a"), worker("mac2", "b"), worker("mac3", "b")))
    assert found.model_ids() == ("qwen", "qwen@mac1")
    (alone,) = found.ready_workers("qwen@mac1")
    assert (alone.host, alone.own_id) == ("mac1", "qwen")
    assert "not those of qwen" in alone.notes[-1]
    assert {each.host for each in found.ready_workers("qwen")} == {"mac2", "mac3"}
    assert [each.models[0].id for each in found.hosts] == ["qwen@mac1", "qwen", "qwen"]


def test_of_as_many_hosts_the_one_that_comes_first_by_name_has_the_name() -> None:
    workers = [worker("mac2", "a"), worker("mac1", "b")]
    for order in (workers, workers[::-1]):
        assert told_apart(fleet(*order)).model_ids() == ("qwen", "qwen@mac2")
