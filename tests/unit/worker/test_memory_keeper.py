"""What the keeper of a host's memory does at a look, with supervisors that only note what they are told."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from shared.registry import ModelRecord, ModelSpec
from worker.device.neighbours import Neighbours
from worker.device.sharing import Holding
from worker.host.memory import MemoryKeeper
from worker.host.pressure import PressureFile
from worker.host.supervision import ModelSupervisor, Use

NOW_S = 1000.0


@dataclass
class Noted:
    """A supervisor as the keeper sees it."""

    spec: ModelSpec
    record: ModelRecord
    pid: int = 0
    use: Use | None = None
    is_unloading: bool = False
    needed_bytes: int = 0
    asked_s: float = -math.inf
    asked_since_s: float = math.inf
    told: list[str] = field(default_factory=list)

    def want(self) -> None:
        self.told.append("load")

    def unload(self) -> None:
        self.told.append("unload")
        self.is_unloading = True

    def note_free(self, free_bytes: int) -> None:
        self.record = replace(self.record, free_bytes=free_bytes)


def ready(name: str, pid: int = 0, *, idle_s: float | None, **spec: Any) -> Noted:
    use = Use(idle_since_s=None if idle_s is None else NOW_S - idle_s, has_served=True)
    return Noted(ModelSpec(id=name, source="s", **spec), ModelRecord(id=name, state="ready"), pid=pid, use=use)


def refused(name: str, needed: int, **more: Any) -> Noted:
    record = ModelRecord(id=name, state="no_memory", needed_bytes=needed, limit_bytes=100)
    return Noted(ModelSpec(id=name, source="s"), record, **more)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Neighbours]:
    """What this process, in place of a worker, holds: 60 bytes."""
    mine = Neighbours(tmp_path)
    mine.publish(Holding(base_bytes=60))
    yield mine
    mine.close()


def keeper(folder: Path, *models: Noted) -> MemoryKeeper:
    supervisors = cast(dict[str, ModelSupervisor], {each.spec.id: each for each in models})
    return MemoryKeeper(folder, supervisors, PressureFile(folder / "memory_pressure"))


def test_memory_that_is_freed_is_given_to_who_asked_first_and_only_once(tmp_path: Path) -> None:
    late, early, unasked = refused("late", 60, asked_since_s=7), refused("early", 60, asked_since_s=5), refused("u", 60)
    keeper(tmp_path, unasked, late, early).look(NOW_S)
    assert (early.told, late.told, unasked.told) == (["load"], [], [])
    assert (early.record.free_bytes, late.record.free_bytes) == (100, 40)


def test_memory_of_a_model_that_has_yet_to_say_that_it_loads_is_not_given_away(tmp_path: Path) -> None:
    loading = Noted(ModelSpec(id="l", source="s"), ModelRecord(id="l", state="loading"), needed_bytes=60)
    waiting = refused("w", 60)
    keeper(tmp_path, loading, waiting).look(NOW_S)
    assert waiting.told == []


def test_a_model_whose_worker_died_keeps_its_place(tmp_path: Path, held: Neighbours) -> None:
    dying, waiting = ready("dying", os.getpid(), idle_s=50.0), refused("waiting", 60)
    looking = keeper(tmp_path, dying, waiting)
    looking.look(NOW_S)
    held.close()
    dying.record, dying.pid, dying.use = replace(dying.record, state="loading"), 0, None
    looking.look(NOW_S)
    assert waiting.told == []


def test_an_idle_model_goes_for_one_that_somebody_asks_for_and_is_waited_for(tmp_path: Path, held: Neighbours) -> None:
    idle, wanted = ready("idle", os.getpid(), idle_s=50.0), refused("wanted", 60, asked_s=NOW_S)
    looking = keeper(tmp_path, idle, wanted)
    looking.look(NOW_S)
    looking.look(NOW_S)
    assert (idle.told, wanted.told) == (["unload"], [])
    held.close()
    looking.look(NOW_S)
    assert wanted.told == ["load"]


@pytest.mark.parametrize(
    "other",
    [
        ready("at work", os.getpid(), idle_s=None),
        ready("pinned", os.getpid(), idle_s=50.0, is_pinned=True),
        ready("just used", os.getpid(), idle_s=0.5),
    ],
)
def test_who_must_stay_stays_and_the_record_says_what_is_there(tmp_path: Path, held: Neighbours, other: Noted) -> None:
    wanted = refused("wanted", 60, asked_s=NOW_S)
    keeper(tmp_path, other, wanted).look(NOW_S)
    assert (other.told, wanted.told) == ([], [])
    assert wanted.record.free_bytes == 40


def test_nobody_goes_for_a_model_that_was_not_asked_for(tmp_path: Path, held: Neighbours) -> None:
    idle, waiting = ready("idle", os.getpid(), idle_s=50.0), refused("waiting", 60, asked_s=NOW_S - 60)
    keeper(tmp_path, idle, waiting).look(NOW_S)
    assert idle.told == []


def test_under_pressure_one_model_goes_and_the_next_after_a_while(tmp_path: Path, held: Neighbours) -> None:
    (tmp_path / "memory_pressure").write_text("critical")
    old, new = ready("old", os.getpid(), idle_s=50.0), ready("new", os.getpid(), idle_s=40.0)
    remote = ready("holds nothing here", idle_s=500.0)
    looking = keeper(tmp_path, old, new, remote)
    looking.look(NOW_S)
    looking.look(NOW_S + 1)
    assert (old.told, new.told) == (["unload"], [])
    looking.look(NOW_S + 6)
    assert (new.told, remote.told) == (["unload"], [])


def test_a_model_that_is_kept_for_a_while_goes_after_it(tmp_path: Path) -> None:
    due, kept = ready("due", idle_s=50.0, keep_alive_s=50.0), ready("kept", idle_s=50.0)
    keeper(tmp_path, due, kept).look(NOW_S)
    assert (due.told, kept.told) == (["unload"], [])
