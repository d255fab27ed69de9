"""A sequence's place in the prefix cache."""

from __future__ import annotations

from dataclasses import dataclass

from worker.engines.mlx.kv.buffers import Buffer
from worker.engines.mlx.kv.cache import Segment
from worker.prefix_cache.marks import Mark
from worker.prefix_cache.node import Node


@dataclass(slots=True, kw_only=True)
class Lease:
    """A sequence's place in the cache.

    `depth` tokens of its prompt can be resumed, of the `common` ones that were known; `restored` of them have to come
    from the disk. `is_parted` says that what was known goes on differently after `common`. What the sequence computes
    is inserted from `kept` on, below `node`, which is pinned. `buffer` is lent to its running cache, until it is given
    back. `marks` name prefixes of its prompt, `session` is the digest of its session's name.
    """

    node: Node[Segment]
    depth: int
    kept: int
    common: int
    is_parted: bool
    restored: int
    weight: float
    buffer: Buffer | None = None
    computed: int = 0  # tokens that were to be kept, of `packed`
    packed: bytes = b""
    marks: tuple[Mark, ...] = ()
    session: str = ""
    is_fetching: bool = False  # what it needs is held in memory, as soon as it is there


def kept_note(kept: int, computed: int, fitting: int, room_bytes: int, *, is_on_disk: bool) -> str:
    """How much of a prompt and its answer was kept, and why not more; empty where all was."""
    rest = "; the rest goes to the disk" if is_on_disk else ""
    budget = f"the budget is {room_bytes >> 20} MB, about {fitting} tokens{rest}"
    return f"kept {kept} of {computed} tokens: {budget}" if kept < computed else ""
