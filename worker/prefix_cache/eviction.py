"""What may leave a tree of prefixes, judged by its nodes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from worker.prefix_cache.node import Node


def is_evictable(node: Node[Any]) -> bool:
    """Whether some or all of its payload may leave memory."""
    if node.payload is None or node.holds:
        return False
    if not node.payload.is_held and (node.stored is not None or not (node.children or node.pins)):
        return True
    return node.payload.thin_bytes > 0 and not node.pins


def may_lose(group: Sequence[Node[Any]]) -> bool:
    """Whether nothing in the tree depends on the stored copy that these nodes share."""
    return all(
        node.payload is not None or (not node.pins and all(child in group for child in node.each_child()))
        for node in group
    )


def fixed_bytes(nodes: Iterable[Node[Any]]) -> int:
    """Of payloads that pinned prefixes need, no copy was stored of, and nobody else holds."""
    fixed: dict[Node[Any], int] = {}
    for pinned in [node for node in nodes if node.pins]:
        node = pinned
        while node.parent is not None and node not in fixed:
            payload = node.payload if node.stored is None else None
            if payload is not None and payload.is_held:
                payload = None
            thinned = 0 if payload is None or node.pins else payload.thin_bytes
            fixed[node] = 0 if payload is None else payload.nbytes - thinned
            node = node.parent
    return sum(fixed.values())
