"""Running caches that stay where they are after their sequence is over, until the writer is done with them: memory has
no room for what they hold."""

from __future__ import annotations

from collections.abc import Callable

from worker.engines.mlx.kv.buffers import Buffer
from worker.engines.mlx.kv.cache import Segment
from worker.prefix_cache.node import Node

IsUnwritten = Callable[[Node[Segment]], bool]


class Unwritten:
    """Belongs to the engine thread."""

    def __init__(self) -> None:
        self._entries: list[tuple[Buffer, Node[Segment], int]] = []

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, buffer: Buffer, node: Node[Segment], used: int) -> None:
        """`buffer` stays lent until what leads to `node` is written; `used` is when it was used last (see `Buffer`)."""
        self._entries.append((buffer, node, used))

    def take_back(self, is_unwritten: IsUnwritten) -> bool:
        """Whether anything was written, and is at rest again."""
        written = [entry for entry in self._entries if not is_unwritten(entry[1])]
        for entry in written:
            buffer, _, used = entry
            self._entries.remove(entry)
            buffer.give_back(used)
        return bool(written)

    def has_written(self, is_unwritten: IsUnwritten) -> bool:
        return any(not is_unwritten(node) for _, node, _ in self._entries)
