"""Heat and power, as far as a machine tells. macOS and macmon themselves are not asked here: there are none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from worker.host.figures import MachineFigures
from worker.host.heat import HeatFile, MacHeat, Macmon, build_heat, figures_of
from worker.host.pressure import PressureFile

LINE = {"all_power": 31.5, "gpu_usage": [1200, 0.75], "temp": {"gpu_temp_avg": 61.0}}


class Runtime:
    """What the Objective-C runtime does with the two messages, as Apple's headers say."""

    def __init__(self, state: int) -> None:
        self.state = state

    def the_class(self, name: bytes) -> str:
        return {b"NSProcessInfo": "class"}[name]

    def send(self, result: Any, receiver: str, selector: bytes) -> Any:
        return {("class", b"processInfo"): "process", ("process", b"thermalState"): self.state}[receiver, selector]


@pytest.mark.parametrize(("told", "state"), [(0, 0), (1, 1), (2, 2), (3, 3), (7, None), (-1, None)])
def test_the_state_of_macos_is_read_and_one_that_is_not_known_is_none(told: int, state: int | None) -> None:
    assert MacHeat(Runtime(told)).state() == state


def test_the_stand_in_says_what_somebody_wrote(tmp_path: Path) -> None:
    heat = HeatFile(tmp_path / "thermal_state")
    assert heat.state() is None
    for text, state in (("2\n", 2), ("0", 0), ("9", None), ("hot", None)):
        (tmp_path / "thermal_state").write_text(text)
        assert heat.state() == state


def test_other_systems_get_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "thermal_state").write_text("3")
    assert build_heat(tmp_path).state() == 3


@pytest.mark.parametrize(
    ("told", "figures"),
    [
        (LINE, {"power_watts": 31.5, "gpu_used_ratio": 0.75}),
        ({"all_power": 3}, {"power_watts": 3.0}),
        ({"gpu_usage": [1], "all_power": None}, {}),
        ([], {}),
    ],
)
def test_what_macmon_leaves_out_is_left_out(told: Any, figures: dict[str, float]) -> None:
    assert figures_of(told) == figures


@pytest.mark.parametrize("program", ["print('no json')", "pass", "raise SystemExit(1)"])
def test_a_macmon_that_fails_is_asked_no_more(program: str, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    script = f"open({str(asked)!r}, 'a').write('x'); {program}"
    macmon = Macmon([sys.executable, "-S", "-c", script])
    assert [macmon.read(), macmon.read()] == [{}, {}]
    assert asked.read_text() == "x"


def test_a_host_tells_of_heat_and_power_beside_memory_and_disk(tmp_path: Path) -> None:
    (tmp_path / "thermal_state").write_text("2")
    macmon = Macmon([sys.executable, "-S", "-c", f"import json; print(json.dumps({LINE}))"])
    figures = MachineFigures(tmp_path, PressureFile(tmp_path / "memory_pressure"), macmon=macmon).read()
    assert figures["thermal_state"] == 2.0
    assert figures["power_watts"] == 31.5
    assert {"memory_total_bytes", "swap_used_bytes", "disk_free_bytes"} <= set(figures)
