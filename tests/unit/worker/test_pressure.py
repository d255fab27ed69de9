"""The system's word for being short of memory. macOS itself is not asked here: there is none."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from worker.host.pressure import MacPressure, PressureFile, build_pressure


class Library:
    """What `sysctlbyname` of macOS does, as its manual says."""

    def __init__(self, value: int, status: int = 0) -> None:
        self.value = value
        self.status = status
        self.asked: list[bytes] = []

    def sysctlbyname(self, name: bytes, old: Any, size: Any, new: None, new_bytes: int) -> int:
        self.asked.append(name)
        assert (new, new_bytes) == (None, 0)
        assert ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t)).contents.value == 4
        ctypes.cast(old, ctypes.POINTER(ctypes.c_int)).contents.value = self.value
        return self.status


@pytest.mark.parametrize(
    ("value", "status", "level"),
    [(1, 0, "normal"), (2, 0, "warning"), (4, 0, "critical"), (3, 0, "normal"), (4, -1, "normal")],
)
def test_the_level_of_macos_is_read_and_one_that_is_not_known_is_none(value: int, status: int, level: str) -> None:
    library: Any = Library(value, status)
    assert MacPressure(library).level() == level
    assert library.asked == [b"kern.memorystatus_vm_pressure_level"]


def test_the_stand_in_says_what_somebody_wrote(tmp_path: Path) -> None:
    pressure = PressureFile(tmp_path / "memory_pressure")
    assert pressure.level() == "normal"
    for text, level in (("warning\n", "warning"), ("critical", "critical"), ("normal", "normal"), ("so so", "normal")):
        (tmp_path / "memory_pressure").write_text(text)
        assert pressure.level() == level
    (tmp_path / "memory_pressure").write_bytes(b"\xff\xfe")
    assert pressure.level() == "normal"


def test_other_systems_get_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "memory_pressure").write_text("warning")
    assert build_pressure(tmp_path).level() == "warning"
