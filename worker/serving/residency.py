"""Tells gateways which prefixes this worker, and its host's disk, need not compute: two sorted sets of tags.

What changed is written along with the lease. A set that is gone, or of which it is not known what it holds, is written
whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.keys import DISK_TTL_S, RESIDENT_TTL_S, Names
from worker.prefix_cache.marks import NOBODY, Residents

_MOST = 50_000  # tags of a set: the deepest first
_AT_ONCE = 1000
_RENEWED_EVERY_S = 3.0


@dataclass(slots=True)
class _Told:
    """What one set holds, as far as we know; None when we do not."""

    key: str
    ttl_s: int
    tags: Mapping[bytes, int] | None = None
    telling: Mapping[bytes, int] = field(default_factory=dict)


class Residency:
    """Used by the lease's thread."""

    def __init__(self, names: Names, *, worker: str, host: str, model: str) -> None:
        self._renewed: tuple[_Told, ...] = ()
        self._renewed_s = 0.0
        self._sets = (_Told(names.resident(worker), RESIDENT_TTL_S), _Told(names.disk(host, model), DISK_TTL_S))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(told.key for told in self._sets)

    def queue(self, pipe: Any, residents: Residents = NOBODY) -> None:
        """Commands that make it known; the last ones give what `note` is told. None while there is nothing to tell."""
        changed = [
            _queue_changes(pipe, told, _bounded(found))
            for told, found in zip(self._sets, (residents.memory, residents.stored), strict=True)
        ]
        self._renewed = ()
        if any(changed) or time.monotonic() - self._renewed_s > _RENEWED_EVERY_S:
            self._renewed_s = time.monotonic()
            self._renewed = tuple(told for told in self._sets if told.telling)
        for told in self._renewed:
            pipe.expire(told.key, told.ttl_s)

    def note(self, replies: Sequence[Any]) -> None:
        """What the commands gave. A set that should hold something and does not exist was lost."""
        renewed = self._renewed
        for told in self._sets:
            told.tags = told.telling
        for told, exists in zip(renewed, replies[len(replies) - len(renewed) :], strict=True):
            told.tags = told.telling if exists else None

    def forget(self) -> None:
        """It is not known what was written."""
        for told in self._sets:
            told.tags = None

    def queue_end(self, pipe: Any) -> None:
        """Nothing is in memory any more."""
        pipe.delete(self._sets[0].key)


def _bounded(found: Mapping[bytes, int]) -> Mapping[bytes, int]:
    if len(found) <= _MOST:
        return found
    return dict(sorted(found.items(), key=lambda each: -each[1])[:_MOST])


def _queue_changes(pipe: Any, told: _Told, found: Mapping[bytes, int]) -> bool:
    """Whether there were any."""
    told.telling = found
    if told.tags is None:
        pipe.delete(told.key)
    elif told.tags is found:
        return False
    known = told.tags or {}
    gone = [tag for tag in known if tag not in found]
    new = [(tag, tokens) for tag, tokens in found.items() if known.get(tag) != tokens]
    for at in range(0, len(gone), _AT_ONCE):
        pipe.zrem(told.key, *gone[at : at + _AT_ONCE])
    for at in range(0, len(new), _AT_ONCE):
        pipe.zadd(told.key, dict(new[at : at + _AT_ONCE]))
    return True
