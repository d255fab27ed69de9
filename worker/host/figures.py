"""What a host says of its machine: read without root, seldom, and left out where it is not told."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

EVERY_S: Final = 10.0
_SYSCTL_S: Final = 2.0


class MachineFigures:
    """`state_dir` names the disk that is watched. `read` may block for moments, and asks the machine every `EVERY_S`
    at most."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self._read_s = -EVERY_S
        self._figures: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """By the keys of `shared.worker_metrics.HOST_FIGURES`."""
        now_s = time.monotonic()
        if now_s - self._read_s >= EVERY_S:
            self._read_s = now_s
            self._figures = {**_memory(), **_disk(self._folder), **_battery(), **_pressure()}
        return self._figures


def _memory() -> dict[str, float]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "memory_total_bytes": float(memory.total),
        "memory_available_bytes": float(memory.available),
        "swap_used_bytes": float(swap.used),
    }


def _disk(folder: Path) -> dict[str, float]:
    try:
        usage = psutil.disk_usage(str(folder))
    except OSError:
        return {}
    return {"disk_free_bytes": float(usage.free), "disk_total_bytes": float(usage.total)}


def _battery() -> dict[str, float]:
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return {} if battery is None else {"on_battery": float(not battery.power_plugged)}


def _pressure() -> dict[str, float]:
    """macOS's own signal. Source: `kern.memorystatus_vm_pressure_level` of sysctl(8), 1, 2 or 4."""
    if sys.platform != "darwin":
        return {}
    command = ["/usr/sbin/sysctl", "-n", "kern.memorystatus_vm_pressure_level"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SYSCTL_S, check=True).stdout
        return {"memory_pressure": float(said)}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
