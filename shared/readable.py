"""What may be said to a process that knows fewer codes than this one: what it cannot read is not sent."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, fields, replace
from functools import lru_cache
from typing import Any

from shared import wire
from shared.errors import WireError
from shared.events import INCIDENTAL, Event, Failed
from shared.registry import Reader

NOTHING: frozenset[int] = frozenset()


@lru_cache(maxsize=64)
def unread_by(codes: tuple[int, ...]) -> frozenset[int]:
    """The codes that this process writes and a reader of `codes` does not know. Who names none knows all: it is of the
    first that spoke this version."""
    return wire.CODES.difference(codes) if codes else NOTHING


def without(value: Any, unread: Collection[int]) -> Any:
    """The value with nothing in it that has an unread code: such an item is left out of its array, such a field has its
    default. None where that leaves no value of its class."""
    if isinstance(value, tuple):
        kept = (item if item is None else without(item, unread) for item in value)
        return tuple(item for item, was in zip(kept, value, strict=True) if item is not None or was is None)
    code = wire.code_of(type(value))
    if code is None:
        return value
    if code in unread:
        return None
    changed = {}
    for each in fields(value):
        was = getattr(value, each.name)
        now = without(was, unread)
        if now is None and was is not None:
            now = each.default
            if now is MISSING:
                return None
        if now != was:
            changed[each.name] = now
    return replace(value, **changed) if changed else value


def readable_events(events: tuple[Event, ...], unread: Collection[int]) -> tuple[Event, ...]:
    """The events for a gateway that does not read these codes. What is incidental is left out; where a part of the
    answer itself would be, it ends there with an error that says so. The normal case, nothing unread, costs nothing."""
    if not unread:
        return events
    told: list[Event] = []
    for event in events:
        kept = without(event, unread)
        if kept is not None:
            told.append(kept)
        elif not isinstance(event, INCIDENTAL):
            name = type(event).__name__
            told.append(Failed.of(WireError(f"the gateway is older than the worker: it cannot read {name}")))
            break
    return tuple(told)


def unread_in(message: bytes, reader: Reader) -> tuple[str, ...]:
    """The names of the classes in what `wire.encode` made that the reader does not know."""
    return tuple(sorted(map(wire.name_of, unread_by(reader.codes).intersection(wire.codes_in(message)))))
