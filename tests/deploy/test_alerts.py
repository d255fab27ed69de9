"""Prometheus's own tool tries the alerts: each fires, and is silent one step below; a quiet evening fires none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.documentation import all_metric_names, asked_metrics
from tests.support.processes import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "prometheus"
RULES = FOLDER / "rules.yml"
RUNBOOKS = (REPOSITORY / "docs" / "runbooks.md").read_text()
ALERTS = re.findall(r"alert: (\w+)", RULES.read_text())

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="NO ALERT WAS TRIED: promtool (Debian's package prometheus) is missing"
)


@dataclass(frozen=True, slots=True)
class Case:
    """Series by name, in promtool's notation: those that fire the alert after `minutes`, and those that do not."""

    fires: dict[str, str]
    silent: dict[str, str]
    minutes: int = 70
    step: str = "1m"


OK, LOST = 'gw_requests_total{outcome="ok",model="m"}', 'gw_requests_total{outcome="worker_lost",model="m"}'
HOT = 'gw_ttft_seconds_{}{{cache="hot",class="interactive",model="m"{}}}'
FAST, ALL = HOT.format("bucket", ',le="2.5"'), HOT.format("count", "")
READY = 'host_model_state{host="mac",model="m",state="ready"}'
WAITING = 'wk_waiting{host="mac",model="m",copy="0"}'
RESTARTS = 'wk_restarts_total{host="mac",model="m",cause="crash"}'
KEPT, BROKEN = (
    f'gw_first_token_promises_total{{model="m",class="interactive",kept="{kept}"}}' for kept in ("yes", "no")
)
PREDICTED = 'gw_predicted_wait_seconds{model="m",class="interactive"}'
INPUT, CACHED = 'wk_input_tokens_total{host="mac",model="m"}', 'wk_cached_tokens_total{host="mac",model="m"}'


def _histogram(name: str, bounds: dict[str, str], labels: str = 'instance="a"') -> dict[str, str]:
    return {f'{name}_bucket{{{labels},le="{bound}"}}': values for bound, values in bounds.items()}


CASES: dict[str, Case] = {
    "NoGateway": Case({'up{job="mlx-gateway",instance="a"}': "0x80"}, {'up{job="mlx-gateway",instance="a"}': "1x80"}),
    "RedisUnreachable": Case({'gw_redis_up{instance="a"}': "0x80"}, {'gw_redis_up{instance="a"}': "1x80"}),
    "HostLost": Case({'up{job="mlx-host",instance="mac"}': "0x80"}, {'up{job="mlx-host",instance="mac"}': "1x80"}),
    "ModelFailed": Case(
        {'host_model_state{host="mac",model="m",state="failed"}': "1x80"},
        {'host_model_state{host="mac",model="m",state="failed"}': "0x80"},
    ),
    "ModelNowhereReady": Case(
        {READY: "0x80", 'gw_queue_depth{model="m"}': "1x80"}, {READY: "0x80", 'gw_queue_depth{model="m"}': "0x80"}
    ),
    "EngineStuck": Case(
        {'wk_state{host="mac",model="m",state="stalled"}': "1x80"},
        {'wk_state{host="mac",model="m",state="stalled"}': "0x80"},
    ),
    "RestartLoop": Case({RESTARTS: "0x62 1 2 3 4 4x10"}, {RESTARTS: "0x66 1 2 2x20"}),
    "RequestsMoved": Case(
        {'gw_redispatches_total{model="m"}': "0x62 1 2 3 4 5 6 7 8"}, {'gw_redispatches_total{model="m"}': "0x68 1x20"}
    ),
    "FailuresFast": Case({OK: "0+8x80", LOST: "0+2x80"}, {OK: "0+9x80", LOST: "0+1x80"}),
    "FailuresSlow": Case({OK: "0+45x90", LOST: "0+5x90"}, {OK: "0+480x90", LOST: "0+20x90"}, minutes=400, step="5m"),
    "HotFirstTokenSlow": Case({FAST: "0+6x80", ALL: "0+10x80"}, {FAST: "0+8x80", ALL: "0+10x80"}),
    "CachedShareFell": Case(
        {INPUT: "0+100000x400", CACHED: "0+90000x150 13500000+50000x250"},
        {INPUT: "0+100000x400", CACHED: "0+90000x150 13500000+80000x250"},
        minutes=28 * 60,
        step="10m",
    ),
    "PromiseBroken": Case(
        {KEPT: "0+30x90", BROKEN: "0+20x90"}, {KEPT: "0+40x90", BROKEN: "0+10x90"}, minutes=400, step="5m"
    ),
    "QueueOverDeadline": Case(
        {PREDICTED: "490x80", 'gw_deadline_seconds{class="interactive"}': "600x80"},
        {PREDICTED: "470x80", 'gw_deadline_seconds{class="interactive"}': "600x80"},
    ),
    "RedisMemory": Case(
        {"gw_redis_memory_bytes": "81x80", "gw_redis_memory_limit_bytes": "100x80"},
        {"gw_redis_memory_bytes": "81x80", "gw_redis_memory_limit_bytes": "0x80"},
    ),
    "Refusing": Case(
        {'gw_admission_rejections_total{reason="queue_full"}': "0+1x80"},
        {'gw_admission_rejections_total{reason="queue_full"}': "0x60 1 2 3 4x20"},
    ),
    "StreamGaps": Case(
        {'gw_stream_gaps_total{outcome="lost"}': "0x66 1x20"}, {'gw_stream_gaps_total{outcome="repaired"}': "0x66 1x20"}
    ),
    "DecodeStalls": Case(
        {
            **_histogram(
                "gw_inter_token_seconds", {"1.0": "0+90x80", "2.5": "0+100x80", "+Inf": "0+100x80"}, 'model="m"'
            ),
            WAITING: "1x80",
        },
        {
            **_histogram(
                "gw_inter_token_seconds", {"1.0": "0+100x80", "2.5": "0+100x80", "+Inf": "0+100x80"}, 'model="m"'
            ),
            WAITING: "1x80",
        },
    ),
    "MemoryPressure": Case({'host_memory_pressure{host="mac"}': "2x80"}, {'host_memory_pressure{host="mac"}': "1x80"}),
    "Swapping": Case(
        {'host_swap_used_bytes{host="mac"}': "0+60000000x80"}, {'host_swap_used_bytes{host="mac"}': "0+10000000x80"}
    ),
    "Throttled": Case({'host_thermal_state{host="mac"}': "2x80"}, {'host_thermal_state{host="mac"}': "1x80"}),
    "CertificateEnds": Case(  # promtool's clock begins at 0
        {'gw_certificate_expiry_timestamp_seconds{name="mac"}': "1213000x80"},
        {'gw_certificate_expiry_timestamp_seconds{name="mac"}': "1213900x80"},
    ),
    "ClockSkew": Case(
        {'host_clock_offset_seconds{host="mac"}': "-2.1x80"}, {'host_clock_offset_seconds{host="mac"}': "2x80"}
    ),
    "UpstreamDown": Case(
        {'wk_upstream_up{host="mac",model="m",copy="0"}': "1x66 0x20"},
        {'wk_upstream_up{host="mac",model="m",copy="0"}': "1x68 0x20"},
    ),
    "CacheBuffers": Case(
        {'wk_prefix_cache_arrays{host="mac",model="m"}': "400001x80"},
        {'wk_prefix_cache_arrays{host="mac",model="m"}': "400000x80"},
    ),
    "DiskFull": Case(
        {'host_disk_free_bytes{host="mac"}': "4x80", 'host_disk_total_bytes{host="mac"}': "100x80"},
        {'host_disk_free_bytes{host="mac"}': "6x80", 'host_disk_total_bytes{host="mac"}': "100x80"},
    ),
    "LoopLag": Case(
        _histogram("gw_loop_lag_seconds", {"0.1": "0+90x80", "0.25": "0+100x80", "+Inf": "0+100x80"}),
        _histogram("gw_loop_lag_seconds", {"0.1": "0+100x80", "0.25": "0+100x80", "+Inf": "0+100x80"}),
    ),
    "RedisSlow": Case(
        _histogram("gw_redis_round_trip_seconds", {"0.25": "0+90x80", "0.5": "0+100x80", "+Inf": "0+100x80"}),
        _histogram("gw_redis_round_trip_seconds", {"0.25": "0+100x80", "0.5": "0+100x80", "+Inf": "0+100x80"}),
    ),
    "FramesRefused": Case({"gw_frames_refused_total": "0x68 1x20"}, {"gw_frames_refused_total": "0x80"}),
}
HEALTHY = {'up{job="mlx-gateway",instance="z"}': "1x400"}  # else NoGateway fires beside every other
QUIET = {
    **HEALTHY,
    'up{job="mlx-host",instance="mac"}': "1x400",
    OK: "0x300 1x100",
    LOST: "0x310 1x90",
    FAST: "0x400",
    ALL: "0x390 1x10",
    INPUT: "0x400",
    CACHED: "0x400",
    READY: "1x400",
    'gw_stream_gaps_total{outcome="lost"}': "0x400",
    "gw_frames_refused_total": "0x400",
}


_SETTING = {
    "rule_files": ["rules.yml"],
    # Else promtool takes the groups in any order, and an alert may not see what was recorded for it.
    "group_eval_order": ["mlx-gateway-recording", "mlx-gateway-alerts"],
}


def _group(series: dict[str, str], minutes: int, alerts: list[str], step: str = "1m") -> dict[str, Any]:
    """A test of promtool's: each alert is expected to be silent, so that it complains about those that fire."""
    return {
        "interval": step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": []} for name in alerts],
    }


def _firing(tmp_path: Path, groups: list[dict[str, Any]]) -> set[str]:
    """Which of the alerts promtool finds firing."""
    shutil.copy(RULES, tmp_path / "rules.yml")
    files = []
    for step in {group["interval"] for group in groups}:
        tests = [group for group in groups if group["interval"] == step]
        files.append(tmp_path / f"test-{step}.yml")  # JSON is YAML
        files[-1].write_text(json.dumps({**_SETTING, "evaluation_interval": step, "tests": tests}))
    said = subprocess.run(["promtool", "test", "rules", *map(str, files)], capture_output=True, text=True, check=False)
    text = said.stdout + said.stderr
    assert "parse" not in text, text
    return set(re.findall(r"alertname:\s*(\w+)", text))


def _groups(kind: str) -> list[dict[str, Any]]:
    return [
        _group({**({} if name == "NoGateway" else HEALTHY), **getattr(case, kind)}, case.minutes, [name], case.step)
        for name, case in CASES.items()
    ]


def test_every_alert_has_its_cases_and_a_section_of_the_runbook() -> None:
    assert set(ALERTS) == set(CASES)
    assert re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE) == ALERTS
    assert all(f"runbook: docs/runbooks.md#{name.lower()}" in RULES.read_text() for name in ALERTS)


@pytest.mark.slow
def test_every_alert_fires(tmp_path: Path) -> None:
    assert _firing(tmp_path, _groups("fires")) == set(ALERTS)


@pytest.mark.slow
def test_every_alert_is_silent_one_step_below(tmp_path: Path) -> None:
    assert _firing(tmp_path, _groups("silent")) == set()


def test_a_quiet_evening_fires_nothing(tmp_path: Path) -> None:
    assert _firing(tmp_path, [_group(QUIET, 390, ALERTS)]) == set()


def test_every_metric_of_the_rules_exists() -> None:
    asked = asked_metrics(RULES.read_text())
    assert len(asked) > 15
    assert asked <= all_metric_names()


def test_the_scrape_example_is_one_that_prometheus_takes() -> None:
    subprocess.run(["promtool", "check", "config", str(FOLDER / "prometheus.yml")], capture_output=True, check=True)
