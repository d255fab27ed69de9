"""Figures of workers and hosts become metrics that Prometheus can add up over restarts, copies and gateways."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from shared.registry import HostRecord, ModelRecord
from shared.worker_metrics import FIGURES, HOST_FIGURES, HostCollector, Shown
from tests.support.fleet import lease
from worker.host.figures import MachineFigures
from worker.host.pressure import build_pressure


def page(shown: Shown) -> list[str]:
    registry = CollectorRegistry()
    registry.register(HostCollector(lambda: shown))
    return generate_latest(registry).decode().splitlines()


def test_counters_are_counters_and_gauges_gauges() -> None:
    told = page(Shown(workers=(lease("m", metrics=dict.fromkeys(FIGURES, 2.0)),)))
    assert "# TYPE wk_output_tokens_total counter" in told
    assert "# TYPE wk_prefix_cache_hits_total counter" in told
    assert "# TYPE wk_memory_bytes gauge" in told
    assert all(line.split()[3] == "counter" for line in told if line.startswith("# TYPE") and "_total " in line)


def test_causes_are_labels_of_one_metric() -> None:
    told = page(Shown(workers=(lease("m", metrics={"computed_tokens_new": 3.0, "computed_tokens_system": 4.0}),)))
    assert [line.rsplit("cause=", 1)[1] for line in told if line.startswith("wk_computed_tokens_total{")] == [
        '"new",copy="0",host="host",model="m"} 3.0',
        '"system",copy="0",host="host",model="m"} 4.0',
    ]


def test_a_worker_that_starts_again_goes_on_with_the_series_of_the_one_before() -> None:
    before, after = (
        [line.rsplit(" ", 1)[0] for line in page(Shown(workers=(lease("m", worker=f"host.m.{epoch}"),)))]
        for epoch in ("1", "2")
    )
    assert before == after


def test_two_copies_of_a_model_on_a_host_are_no_duplicates_and_two_hosts_have_series_of_their_own() -> None:
    workers = (
        lease("m", worker="host.m.1"),
        lease("m", worker="host.m.2"),
        lease("m", worker="other.m.1", host="other"),
    )
    told = [line for line in page(Shown(workers=workers)) if line.startswith("wk_capacity{")]
    assert [line.split("}")[0] for line in told] == [
        'wk_capacity{copy="0",host="host",model="m"',
        'wk_capacity{copy="1",host="host",model="m"',
        'wk_capacity{copy="0",host="other",model="m"',
    ]


def test_every_state_is_there_before_it_happened() -> None:
    host = HostRecord(host="mac", pid=1, models=(ModelRecord(id="m", state="ready"),))
    told = page(Shown(hosts=(host,)))
    assert 'host_model_state{host="mac",model="m",state="ready"} 1.0' in told
    assert 'host_model_state{host="mac",model="m",state="failed"} 0.0' in told


def test_a_machine_shows_what_it_tells_and_nothing_else() -> None:
    told = page(Shown(hosts=(HostRecord(host="mac", pid=1, figures={"swap_used_bytes": 5.0}),)))
    assert 'host_swap_used_bytes{host="mac"} 5.0' in told
    assert not any(line.startswith("host_memory_pressure{") for line in told)


def test_what_an_engine_of_another_version_says_is_shown_too() -> None:
    assert 'wk_new_thing{copy="0",host="host",model="m"} 1.0' in page(
        Shown(workers=(lease("m", metrics={"new_thing": 1.0}),))
    )


def test_this_machine_tells_its_memory_and_its_disk(tmp_path: Path) -> None:
    (tmp_path / "memory_pressure").write_text("warning")
    told = MachineFigures(tmp_path, build_pressure(tmp_path)).read()
    assert told["memory_pressure"] == 2.0
    assert set(told) <= set(HOST_FIGURES)
    assert told["memory_total_bytes"] > told["memory_available_bytes"] > 0
    assert told["disk_total_bytes"] > told["disk_free_bytes"] > 0
