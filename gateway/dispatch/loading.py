"""Which hosts load a model that was asked for: all that can, or as many as its settings say."""

from __future__ import annotations

from shared.keys import word
from shared.registry import Fleet, HostRecord, ModelRecord

_HELD = ("loading", "ready")
_CAN = ("available", "unloaded", "no_memory")


def hosts_to_load(fleet: Fleet, model: str) -> tuple[str, ...]:
    """The words of those hosts, the ones with the most free memory first; empty for whoever can, where the model's
    settings bound nothing or nobody is known to have it."""
    records = [(host, record) for host in fleet.hosts for record in host.models if record.id == model]
    copies = max((record.copies for _, record in records), default=0)
    if not copies:
        return ()
    held = [host for host, record in records if record.state in _HELD]
    able = sorted((each for each in records if each[1].state in _CAN), key=_likeliest_first)
    return tuple(word(host.host) for host in [*held, *(host for host, _ in able)][:copies])


def _likeliest_first(each: tuple[HostRecord, ModelRecord]) -> tuple[bool, float, str]:
    host, record = each
    return record.state == "no_memory", -host.figures.get("memory_available_bytes", 0.0), host.host
