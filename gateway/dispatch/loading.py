"""Which hosts load a model that was asked for: as many as its settings say, the ones where it is there soonest."""

from __future__ import annotations

from collections.abc import Iterator

from shared.keys import word
from shared.registry import Fleet, HostRecord, ModelRecord

_HELD = ("loading", "ready")
_CAN = ("available", "unloaded", "no_memory")
_LOAD_S = 10.0  # of a model that a host has not loaded yet


def hosts_to_load(fleet: Fleet, model: str, *, most: int = 0) -> tuple[str, ...]:
    """The words of those hosts, where it is soonest first; `most` where the model's settings bound nothing. Empty for
    whoever can, where neither does or nobody is known to have it. Hosts that leave are not asked."""
    staying = [host for host in fleet.hosts if not host.is_draining]
    records = [(host, record) for host in staying for record in host.models if record.id == model]
    copies = max((record.copies for _, record in records), default=0) or most
    if not copies:
        return ()
    held = [host for host, record in records if record.state in _HELD]
    able = sorted((each for each in records if each[1].state in _CAN), key=lambda each: _rank(fleet, *each))
    return tuple(word(host.host) for host in [*held, *(host for host, _ in able)][:copies])


def _rank(fleet: Fleet, host: HostRecord, record: ModelRecord) -> tuple[bool, float, float, str]:
    """Hosts where there is, or can be made, room come first; then the seconds until the model is there, with those that
    it takes to bring back what it would push out."""
    available = host.figures.get("memory_available_bytes", 0.0)
    free = record.free_bytes if record.state == "no_memory" else available
    missing = record.needed_bytes - free if record.needed_bytes and free else 0.0
    seconds, has_room = record.load_s or _LOAD_S, record.state != "no_memory" or record.needed_bytes > 0
    for other in sorted(_idle(fleet, host), key=lambda each: each.load_s or _LOAD_S):
        if missing <= 0:
            break
        missing -= other.needed_bytes
        seconds += other.load_s or _LOAD_S
    return not has_room or missing > 0, seconds, -available, host.host


def _idle(fleet: Fleet, host: HostRecord) -> Iterator[ModelRecord]:
    """What the host would unload for another model."""
    at_work = {lease.model for lease in fleet.workers if lease.host == host.host and lease.in_flight}
    for record in host.models:
        if record.state == "ready" and not record.is_pinned and record.id not in at_work:
            yield record
