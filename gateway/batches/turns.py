"""Whose item is next: tenants take turns, however many batches or items each of them has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An item that nobody has begun: its batch, its place there, and whose it is."""

    batch: str
    number: int
    tenant: str


def share_out(waiting: Iterable[Waiting], running: Iterable[str], count: int) -> list[Waiting]:
    """At most `count`, each the first of the tenant with the fewest under way; `running` has a name for each item that
    runs. `waiting` has the first first."""
    queues: dict[str, list[Waiting]] = {}
    for item in waiting:
        queues.setdefault(item.tenant, []).append(item)
    under_way = Counter(running)
    chosen: list[Waiting] = []
    while queues and len(chosen) < count:
        tenant = min(queues, key=lambda name: under_way[name])
        chosen.append(queues[tenant].pop(0))
        under_way[tenant] += 1
        if not queues[tenant]:
            del queues[tenant]
    return chosen
