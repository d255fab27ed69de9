"""Model names and the view of the fleet."""

from dataclasses import replace

import pytest

from shared.errors import ConfigError
from shared.registry import Fleet, HostRecord, ModelRecord, ModelSpec, WorkerLease, model_id_of, parse_models


def lease(model, state="ready"):
    return WorkerLease(worker=f"{model}.w", model=model, host="h", pid=1, epoch="e", state=state)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/models/agent-full", "agent-full"),
        ("/models/agent-full/", "agent-full"),
        ("~/models/a", "a"),
        ("./a", "a"),
        ("mlx-community/Qwen3-4B-4bit", "mlx-community/Qwen3-4B-4bit"),
        ("publisher/collection/model", "model"),
        ("plain", "plain"),
    ],
)
def test_the_id_of_a_model_is_its_folder_or_its_hub_name(source, expected):
    assert expected == model_id_of(source)


def test_models_json_takes_plain_sources_and_full_entries():
    specs = parse_models({"models": ["/m/a", {"id": "b", "source": "x/y", "engine": "echo", "options": {"k": 1}}]})
    assert (
        ModelSpec(id="a", source="/m/a"),
        ModelSpec(id="b", source="x/y", engine="echo", options={"k": 1}),
    ) == specs


@pytest.mark.parametrize(
    "data",
    [
        {},
        None,
        {"models": "x"},
        [3],
        [{"source": ""}],
        [{"source": "a", "engine": "cuda"}],
        [{"source": "a", "options": [1]}],
        [{"source": "a", "options": "fast"}],
        [{"source": "a", "id": "two\nlines"}],
    ],
)
def test_models_json_says_what_is_wrong_with_it(data):
    with pytest.raises(ConfigError, match=r"models\.json"):
        parse_models(data)


def test_the_fleet_lists_what_can_be_asked_for():
    host = HostRecord(
        host="h",
        pid=1,
        models=(
            ModelRecord(id="idle", state="available"),
            ModelRecord(id="bad", state="failed", source="/m/bad", reason="no config.json"),
        ),
    )
    fleet = Fleet(workers=(lease("a"), lease("b", "loading")), hosts=(host,))
    assert fleet.model_ids() == ("a", "b", "idle")
    assert [w.worker for w in fleet.ready_workers("a")] == ["a.w"]
    assert fleet.ready_workers("b") == ()


def test_the_fleet_says_why_a_model_failed_by_id_and_by_path():
    bad = ModelRecord(id="bad", state="failed", source="/m/bad", reason="no config.json")
    fleet = Fleet(hosts=(HostRecord(host="h", pid=1, models=(bad,)),))
    assert fleet.failure("bad") == "no config.json"
    assert fleet.failure("/m/bad") == "no config.json"
    assert fleet.failure("unknown") == ""


def test_a_model_that_one_host_has_is_not_failed_because_another_could_not_load_it():
    bad = HostRecord(host="h1", pid=1, models=(ModelRecord(id="m", state="failed", reason="too big"),))
    good = HostRecord(host="h2", pid=1, models=(ModelRecord(id="m", state="available"),))
    assert Fleet(hosts=(bad, good)).failure("m") == ""
    assert Fleet(workers=(lease("m"),), hosts=(bad,)).failure("m") == ""


def test_a_models_date_is_the_earliest_that_anybody_knows():
    host = HostRecord(host="h", pid=1, models=(ModelRecord(id="a", state="available", made_at_s=7),))
    dated = replace(lease("a"), made_at_s=9)
    assert Fleet(workers=(dated,)).made_at_s("a") == 9
    assert Fleet(workers=(dated, lease("a")), hosts=(host,)).made_at_s("a") == 7
    assert Fleet(workers=(lease("a"), replace(lease("b"), made_at_s=3))).made_at_s("a") == 0
