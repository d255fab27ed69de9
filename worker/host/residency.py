"""Which models stay in a machine's memory and which go: pure decisions.

A model that is at work, or pinned, stays. Of the others the one that was used longest ago is the least valuable: to
load it again takes as long as its weights are large, and they are what its going frees, so that only the time tells
them apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SETTLED_S = 2.0  # since it was used last: an agent's tool may just be running
_FIRST_USE_S = 10.0  # since it was loaded: who asked for it is on the way


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model that is ready. `idle_s` is since its last request ended, or since it was loaded; None while it is at
    work. `base_bytes` are free once it is gone."""

    model: str
    base_bytes: int
    idle_s: float | None
    has_served: bool
    keep_alive_s: float
    is_pinned: bool


def expired(residents: Iterable[Resident]) -> list[str]:
    """Those that have been idle for as long as they are kept."""
    return [
        each.model
        for each in residents
        if not each.is_pinned
        and each.idle_s is not None
        and each.idle_s >= each.keep_alive_s
        and (each.has_served or each.idle_s >= _FIRST_USE_S)
    ]


def make_room(residents: Iterable[Resident], missing_bytes: int) -> list[str]:
    """Those to unload so that `missing_bytes` more are free, the least valuable first and none without need. None goes
    where all of them would not be enough."""
    chosen: list[Resident] = []
    for each in _dispensable(residents, _SETTLED_S):
        if _bytes(chosen) < missing_bytes:
            chosen.append(each)
    if _bytes(chosen) < missing_bytes:
        return []
    for each in reversed(list(chosen)):
        if _bytes(chosen) - each.base_bytes >= missing_bytes:
            chosen.remove(each)
    return [each.model for each in chosen]


def least_valuable(residents: Iterable[Resident], *, least_idle_s: float) -> str | None:
    """The one to unload when the machine is short of memory, of those that have been idle for so long at least."""
    return next((each.model for each in _dispensable(residents, max(least_idle_s, _SETTLED_S))), None)


def _dispensable(residents: Iterable[Resident], least_idle_s: float) -> list[Resident]:
    """The least valuable first."""
    idle = [
        (each.idle_s, each)
        for each in residents
        if not each.is_pinned
        and each.idle_s is not None
        and each.idle_s >= (least_idle_s if each.has_served else max(least_idle_s, _FIRST_USE_S))
    ]
    return [each for _, each in sorted(idle, key=lambda pair: pair[0], reverse=True)]


def _bytes(residents: Iterable[Resident]) -> int:
    return sum(each.base_bytes for each in residents)
