"""Model names and the view of the fleet."""

import math
import re
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
        [{"source": "a", "hosts": "studio"}],
        [{"source": "a", "hosts": [1]}],
        [{"source": "a", "copies": -1}],
        [{"source": "a", "copies": True}],
    ],
)
def test_models_json_says_what_is_wrong_with_it(data):
    with pytest.raises(ConfigError, match=r"models\.json"):
        parse_models(data)


def test_models_json_says_which_hosts_serve_a_model_and_how_many_load_it():
    (spec,) = parse_models([{"source": "a", "hosts": ["studio", "Mac two"], "copies": 2}])
    assert (spec.hosts, spec.copies) == (("studio", "Mac-two"), 2)


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


def test_how_long_models_are_kept_and_which_are_pinned_is_read_from_models_json() -> None:
    entries = [
        "plain",
        {"source": "short", "keep_alive": 0},
        {"source": "for-ever", "keep_alive": -1},
        {"source": "pinned", "pinned": True},
    ]
    specs = {spec.id: spec for spec in parse_models({"keep_alive": "5m", "models": entries})}
    kept = {name: spec.keep_alive_s for name, spec in specs.items()}
    assert kept == {"plain": 300.0, "short": 0.0, "for-ever": math.inf, "pinned": 300.0}
    assert [name for name, spec in specs.items() if spec.is_pinned] == ["pinned"]
    assert parse_models(["plain"])[0].keep_alive_s == math.inf


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"models": [{"source": "x", "keep_alive": "soon"}]}, "entry 0: `keep_alive` 'soon'"),
        ({"models": [], "keep_alive": "soon"}, "models.json: `keep_alive` 'soon'"),
        ({"models": [{"source": "x", "pinned": "yes"}]}, "entry 0: `pinned`"),
    ],
)
def test_a_keep_alive_or_pin_that_means_nothing_is_refused_with_its_place(data: object, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_models(data)


def refused(name: str, *, needed: int, limit: int = 100) -> ModelRecord:
    return ModelRecord(id=name, state="no_memory", reason="too big", needed_bytes=needed, limit_bytes=limit)


def test_a_model_without_memory_can_be_asked_for_unless_it_can_never_fit() -> None:
    fleet = Fleet(hosts=(HostRecord(host="h", pid=1, models=(refused("m", needed=60), refused("huge", needed=101))),))
    assert fleet.model_ids() == ("m",)
    assert (fleet.failure("m"), fleet.failure("huge")) == ("", "too big")
    assert fleet.without_memory("m") == fleet.hosts[0].models[0]


def test_a_model_that_somebody_else_has_or_may_have_is_not_without_memory() -> None:
    here = HostRecord(host="h1", pid=1, models=(refused("m", needed=60),))
    there = HostRecord(host="h2", pid=1, models=(ModelRecord(id="m", state="unloaded"),))
    assert Fleet(hosts=(here, there)).without_memory("m") is None
    assert Fleet(hosts=(here,), workers=(lease("m"),)).without_memory("m") is None
