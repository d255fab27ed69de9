"""Which models stay in memory and which go, as decisions."""

from __future__ import annotations

import math
from typing import Any

from worker.host.residency import Resident, expired, least_valuable, make_room


def resident(model: str, idle_s: float | None, **more: Any) -> Resident:
    fields = {"base_bytes": 10, "has_served": True, "keep_alive_s": math.inf, "is_pinned": False, **more}
    return Resident(model=model, idle_s=idle_s, **fields)


def test_a_model_goes_when_it_has_been_idle_for_as_long_as_it_is_kept() -> None:
    models = [
        resident("due", 300.0, keep_alive_s=300.0),
        resident("soon", 299.0, keep_alive_s=300.0),
        resident("at work", None, keep_alive_s=0.0),
        resident("at once", 0.0, keep_alive_s=0.0),
        resident("for ever", 1e9),
        resident("pinned", 1e9, keep_alive_s=0.0, is_pinned=True),
        resident("asked for a moment ago", 1.0, keep_alive_s=0.0, has_served=False),
        resident("asked for and never used", 60.0, keep_alive_s=0.0, has_served=False),
    ]
    assert expired(models) == ["due", "at once", "asked for and never used"]


def test_the_model_that_was_used_longest_ago_makes_room_and_no_more_than_needed_go() -> None:
    models = [resident("new", 5.0), resident("old", 500.0, base_bytes=4), resident("older", 900.0, base_bytes=3)]
    assert make_room(models, 2) == ["older"]
    assert make_room(models, 7) == ["older", "old"]
    assert make_room(models, 8) == ["new"], "those that went before it would not be enough, and are not needed with it"
    assert make_room(models, 17) == ["older", "old", "new"]


def test_nobody_goes_in_vain() -> None:
    assert make_room([resident("one", 50.0), resident("two", 60.0)], 21) == []
    assert make_room([], 1) == []


def test_models_that_are_at_work_pinned_or_just_used_make_no_room() -> None:
    models = [
        resident("at work", None),
        resident("pinned", 900.0, is_pinned=True),
        resident("between two turns", 1.0),
        resident("just loaded", 5.0, has_served=False),
    ]
    assert make_room(models, 1) == []
    assert make_room([*models, resident("idle", 3.0)], 1) == ["idle"]


def test_under_the_systems_pressure_the_least_valuable_goes_that_has_been_idle_for_long_enough() -> None:
    models = [resident("new", 5.0), resident("old", 40.0), resident("pinned", 900.0, is_pinned=True)]
    assert least_valuable(models, least_idle_s=30.0) == "old"
    assert least_valuable(models[:1], least_idle_s=30.0) is None
    assert least_valuable(models[:1], least_idle_s=0.0) == "new"
    assert least_valuable([resident("between two turns", 1.0)], least_idle_s=0.0) is None
