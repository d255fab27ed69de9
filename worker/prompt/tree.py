"""Prompts built before, as a tree of units: a conversation that grew finds its history here."""

from __future__ import annotations

import array
import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.prompt.image_pieces import ImageSpan, cache_keys
from worker.prompt.unit import Unit
from worker.prompt.values import Boundary

_BUDGET_BYTES = 128 * 1024 * 1024
# A token takes an integer and a pointer here, and about four bytes of text twice.
_TOKEN_BYTES = 48
_NODE_BYTES = 1500
_ROOTS = 256


@dataclass(slots=True, eq=False)
class Node:
    """One unit. `tokens` are its own (of `text`; no text is kept of an answer), `header` those of the generation header
    after it (none after an answer); `end` is the prompt's length up to here. `head` says where in a first unit the head
    ends. `spans` are those of the images, in the node's own tokens."""

    parent: Node | None
    key: Any
    unit: Unit | None
    tokens: Sequence[int] = ()
    text: str = ""
    header: Sequence[int] = ()
    header_text: str = ""
    head: tuple[Boundary, ...] = ()
    spans: tuple[ImageSpan, ...] = ()
    end: int = field(init=False)
    digest: bytes = b""
    children: dict[Any, Node] = field(default_factory=dict)
    depth: int = field(init=False)
    used: int = 0

    def __post_init__(self) -> None:
        self.end = (0 if self.parent is None else self.parent.end) + len(self.tokens)
        self.depth = 0 if self.parent is None else self.parent.depth + 1
        if self.parent is not None:
            self.digest = chained(self.parent.digest, cache_keys(self.tokens, self.spans))

    @property
    def size_bytes(self) -> int:
        files = 0 if self.unit is None else self.unit.file_bytes
        return _NODE_BYTES + _TOKEN_BYTES * len(self.tokens) + files


def chained(digest: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(array.array("Q", tokens).tobytes(), key=digest, digest_size=32).digest()


class Tree:
    """Thread-safe. Forgets the longest unused leaves when it grows over its budget."""

    def __init__(self, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._nodes: set[Node] = set()
        self._roots: OrderedDict[bytes, Node] = OrderedDict()
        self._ticks = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def root(self, digest: bytes) -> Node:
        """Where the conversations with one head begin."""
        with self._lock:
            root = self._roots.get(digest)
            if root is None:
                root = self._roots[digest] = Node(parent=None, key=None, unit=None, digest=digest)
                if len(self._roots) > _ROOTS:
                    self._roots.popitem(last=False)
            self._roots.move_to_end(digest)
            return root

    def child(self, parent: Node, key: Any) -> Node | None:
        node = parent.children.get(key)
        if node is not None:
            node.used = next(self._ticks)
        return node

    def add(self, node: Node) -> Node:
        """The node under its parent: this one, or the one that another thread added meanwhile."""
        assert node.parent is not None
        with self._lock:
            present = node.parent.children.setdefault(node.key, node)
            present.used = next(self._ticks)
            if present is node:
                self._nodes.add(node)
                self._bytes += node.size_bytes
                if self._bytes > self._budget_bytes:
                    self._evict()
            return present

    def drop(self, node: Node) -> None:
        """Forget one node; what is below it goes when it has not been used for long."""
        with self._lock:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        assert node.parent is not None
        if node.parent.children.get(node.key) is node:
            del node.parent.children[node.key]
        if node in self._nodes:
            self._nodes.discard(node)
            self._bytes -= node.size_bytes

    def _evict(self) -> None:
        """An ancestor was used no earlier than its descendants, so these go first."""
        for node in sorted(self._nodes, key=lambda node: (node.used, -node.depth)):
            if self._bytes <= self._budget_bytes * 3 // 4:
                break
            self._remove(node)
