"""Which sequences are decoded in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShape:
    """Sequences decoded in one pass: how many, and the length of the longest."""

    rows: int
    longest: int


def choose_group(
    groups: Sequence[GroupShape], length: int, *, token_bytes: int, pass_bytes: int, free_bytes: int, long_bytes: int
) -> int | None:
    """The group that a sequence of `length` tokens should join; None for one of its own.

    A group's caches are padded to its longest row, and every step reads the padding. A group of its own costs one
    more pass over the weights instead (`pass_bytes`), and no padding. Joining copies the caches of all rows, and so
    does leaving; rows whose own take more than `long_bytes` stay alone.
    """
    best: tuple[int, int] | None = None
    for index, group in enumerate(groups):
        longest = max(group.longest, length)
        padding = ((longest - length) + (longest - group.longest) * group.rows) * token_bytes
        grown = (group.rows + 1) * longest * token_bytes  # the joined batch; the old one is freed as it is copied
        if longest * token_bytes > long_bytes:
            continue
        if padding <= pass_bytes and grown <= free_bytes and (best is None or padding < best[0]):
            best = (padding, index)
    return None if best is None else best[1]
