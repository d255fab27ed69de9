"""Loads and unloads the models of one Mac as its memory allows: looks several times a second, decides, acts.

A model that was refused for want of memory is loaded again once there is room; when somebody asks for it, the least
valuable of those that are idle go for it. Models that nobody uses for as long as they are kept go, and so does one
after another while the system itself is short of memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from shared.beats import until_beat_s
from worker.device.neighbours import holdings_by_pid
from worker.device.sharing import Holding
from worker.host.pressure import Level, Pressure
from worker.host.residency import Resident, expired, least_valuable, make_room
from worker.host.supervision import ModelSupervisor

logger = logging.getLogger(__name__)

_LOOK_S = 0.25
_STEADY_LOOK_S = 1.0
_DEMAND_S = 15.0  # after somebody has asked for a model: who still waits for it asks again
# While the system is short of memory: for how long a model must have been idle to go, and how long to wait after one
# has gone.
_UNDER_PRESSURE: dict[Level, tuple[float, float]] = {"warning": (30.0, 10.0), "critical": (0.0, 5.0)}


class MemoryKeeper:
    """`supervisors` are those of the host, by model, in the order in which they come; `folder` is where workers say
    what they hold."""

    def __init__(self, folder: Path, supervisors: Mapping[str, ModelSupervisor], pressure: Pressure) -> None:
        self._folder = folder
        self._supervisors = supervisors
        self._pressure = pressure
        self._relieved_s = -math.inf

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self.look(time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(_LOOK_S if self._is_moving() else _STEADY_LOOK_S)):
                    await stopping.wait()

    def _is_moving(self) -> bool:
        """Whether a model comes, goes, or waits for memory."""
        states = ("loading", "no_memory")
        return any(each.is_unloading or each.record.state in states for each in self._supervisors.values())

    def look(self, now_s: float) -> None:
        holdings = holdings_by_pid(self._folder)
        for supervisor in self._supervisors.values():
            supervisor.needed_bytes = _base_bytes(holdings, supervisor) or supervisor.needed_bytes
        residents = list(self._residents(holdings, now_s))
        for model in expired(residents):
            self._unload(model, "nobody has used it for as long as it is kept")
        self._relieve(residents, now_s)
        self._load_again(holdings, residents, now_s)

    def _residents(self, holdings: Mapping[int, Holding], now_s: float) -> Iterable[Resident]:
        for model, supervisor in self._supervisors.items():
            use = supervisor.use
            if use is None or supervisor.is_unloading:
                continue
            yield Resident(
                model=model,
                base_bytes=_base_bytes(holdings, supervisor),
                idle_s=None if use.idle_since_s is None else now_s - use.idle_since_s,
                has_served=use.has_served,
                keep_alive_s=supervisor.spec.keep_alive_s,
                is_pinned=supervisor.spec.is_pinned,
            )

    def _unload(self, model: str, why: str) -> None:
        logger.info("%s is unloaded: %s", model, why)
        self._supervisors[model].unload()

    def _relieve(self, residents: list[Resident], now_s: float) -> None:
        """Give memory back to a system that is short of it, one model at a time."""
        level = self._pressure.level()
        if level not in _UNDER_PRESSURE:
            return
        least_idle_s, pause_s = _UNDER_PRESSURE[level]
        holding = [each for each in residents if each.base_bytes]
        model = least_valuable(holding, least_idle_s=least_idle_s)
        if model is not None and now_s - self._relieved_s >= pause_s:
            self._relieved_s = now_s
            self._unload(model, f"the system is short of memory ({level})")

    def _load_again(self, holdings: Mapping[int, Holding], residents: list[Resident], now_s: float) -> None:
        """What was refused for want of memory, who asked first before others."""
        refused = [each for each in self._supervisors.values() if each.record.state == "no_memory"]
        held_bytes = sum(holding.base_bytes for holding in holdings.values()) + self._coming_bytes(holdings)
        leaving_bytes = sum(_base_bytes(holdings, each) for each in self._supervisors.values() if each.is_unloading)
        for supervisor in sorted(refused, key=lambda each: each.asked_since_s):
            record = supervisor.record
            free_bytes = max(0, record.limit_bytes - held_bytes)
            supervisor.note_free(free_bytes)
            missing_bytes = record.needed_bytes - free_bytes
            if missing_bytes <= 0:
                supervisor.want()
                held_bytes += record.needed_bytes
            elif missing_bytes > leaving_bytes and now_s - supervisor.asked_s < _DEMAND_S:
                for model in make_room(residents, missing_bytes - leaving_bytes):
                    self._unload(model, f"{supervisor.spec.id} needs its memory")
                    leaving_bytes += _base_bytes(holdings, self._supervisors[model])
                residents = [each for each in residents if not self._supervisors[each.model].is_unloading]

    def _coming_bytes(self, holdings: Mapping[int, Holding]) -> int:
        """Of models that are being loaded again, because there is room or because their worker died, and have not said
        so yet where workers say what they hold."""
        loading = [each for each in self._supervisors.values() if each.record.state == "loading"]
        return sum(each.needed_bytes for each in loading if not _base_bytes(holdings, each))


def _base_bytes(holdings: Mapping[int, Holding], supervisor: ModelSupervisor) -> int:
    holding = holdings.get(supervisor.pid)
    return holding.base_bytes if holding is not None else 0
