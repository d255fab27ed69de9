"""Which sequences are decoded in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.engines.mlx.decode.step_meter import StepCost


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShape:
    """Sequences decoded in one pass: how many, the length of the longest, and whether the device waits for the host in
    each of their steps, because one of them may only say what a grammar allows."""

    rows: int
    longest: int
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes: of each token of a cache, of memory that is free, and of the longest cache that is copied into a batch."""

    token_bytes: int
    free_bytes: int
    long_bytes: int


def choose_group(groups: Sequence[GroupShape], row: GroupShape, *, cost: StepCost, room: Room) -> int | None:
    """The group that the sequence `row` should join; None for one of its own. Whichever adds less to the step.

    A group's caches are padded to its longest row, and every step reads the padding; a row that waits for the host
    makes a group wait that did not. A group of its own costs one more pass and no padding, and where all others
    wait for the host, that pass is computed meanwhile. Joining copies the caches of all rows, and so does leaving;
    rows whose own take more than `long_bytes` stay alone.
    """
    own_s = cost.pass_s
    if not row.waits and groups and all(group.waits for group in groups):
        own_s = max(0.0, own_s - cost.stall_s)
    best: tuple[float, bool, int] | None = None
    for index, group in enumerate(groups):
        joined_s = _padding(group, row) * cost.token_s + (cost.stall_s if row.waits and not group.waits else 0.0)
        if joined_s < own_s and _has_room(group, row, room):
            this = (joined_s, group.waits != row.waits, index)
            best = this if best is None else min(best, this)
    return None if best is None else best[2]


def _padding(group: GroupShape, row: GroupShape) -> int:
    """Tokens of padding that the row brings."""
    longest = max(group.longest, row.longest)
    return (longest - row.longest) + (longest - group.longest) * group.rows


def _has_room(group: GroupShape, row: GroupShape, room: Room) -> bool:
    longest = max(group.longest, row.longest)
    grown = (group.rows + 1) * longest * room.token_bytes  # the joined batch; the old one is freed as it is copied
    return longest * room.token_bytes <= room.long_bytes and grown <= room.free_bytes
