"""What a host says of its machine: read without root, seldom, and left out where it is not told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from shared.disk import write_trouble
from worker.host.heat import Heat, Macmon, build_heat
from worker.host.pressure import Level, Pressure

log = logging.getLogger(__name__)

EVERY_S: Final = 10.0
_LEVELS: Final[Mapping[Level, float]] = {"normal": 1.0, "warning": 2.0, "critical": 4.0}  # in macOS's own numbers


class MachineFigures:
    """`state_dir` names the disk that is watched, `heat` and `macmon` tell of heat and power. `read` may block for
    moments, and asks the machine every `EVERY_S` at most."""

    def __init__(
        self, state_dir: Path, pressure: Pressure, heat: Heat | None = None, macmon: Macmon | None = None
    ) -> None:
        self._heat = heat or build_heat(state_dir)
        self._macmon = macmon or Macmon()
        self._folder = state_dir
        self._pressure = pressure
        self._read_s = -EVERY_S
        self._figures: dict[str, float] = {}
        self.disk_trouble = ""  # why caches and logs cannot be written; the last `read` found it out

    async def now(self) -> dict[str, float]:
        """What `read` gives, which asks the machine beside the event loop, and only when that is due."""
        return await asyncio.to_thread(self.read) if self._is_due() else self._figures

    def _is_due(self) -> bool:
        return time.monotonic() - self._read_s >= EVERY_S

    def read(self) -> dict[str, float]:
        """By the keys of `shared.worker_metrics.HOST_FIGURES`."""
        if self._is_due():
            self._read_s = time.monotonic()
            self._look_at_disk()
            pressure = {"memory_pressure": _LEVELS[self._pressure.level()]}
            state = self._heat.state()
            heat = {} if state is None else {"thermal_state": float(state)}
            measured = self._macmon.read()
            self._figures = {**_memory(), **_disk(self._folder), **_battery(), **pressure, **heat, **measured}
        return self._figures

    def _look_at_disk(self) -> None:
        trouble = write_trouble(self._folder)
        if trouble and not self.disk_trouble:
            log.error("%s: caches and logs are not kept until it can", trouble)
        elif self.disk_trouble and not trouble:
            log.info("%s can be written again", self._folder)
        self.disk_trouble = trouble


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
