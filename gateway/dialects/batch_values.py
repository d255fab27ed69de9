"""A batch, its items, and a file, as they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# How an item ends; empty while it waits or runs.
Outcome = Literal["", "succeeded", "errored", "canceled", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request of a batch. `body` is its JSON; `custom_id` its client's name for it."""

    custom_id: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An item with its ending. `status` and `answer` (JSON) are those of the HTTP answer, 0 and empty where there was
    none."""

    custom_id: str
    outcome: Outcome
    status: int = 0
    request_id: str = ""
    answer: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An item that is to be done. `number` is its place in its batch; `tries` is how often a worker was lost over
    it. `holder` is the name of the key that made the batch, empty for the owner's; `tenant` whose it is."""

    batch: str
    number: int
    path: str
    body: bytes
    tries: int = 0
    holder: str = ""
    tenant: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.batch, self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`vendor` is whose API it came by; `path` is where its requests go. Times are Unix, None for what has not
    happened. `counts` are items by outcome; `note` is the vendor's own: metadata, and the errors of a batch that was
    never begun. `holder` is the name of the key that made it, `tenant` whose it is: both empty for the owner's."""

    id: str
    vendor: str
    path: str
    made_s: float
    expires_s: float
    cancelled_s: float | None = None
    ended_s: float | None = None
    input_file: str = ""
    output_file: str = ""
    error_file: str = ""
    holder: str = ""
    tenant: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[Outcome, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """What is known of a file beside its content. `tenant` is whose it is, empty for the owner's."""

    id: str
    vendor: str
    name: str
    purpose: str
    media_type: str
    size_bytes: int
    made_s: float
    expires_s: float | None = None
    tenant: str = ""
