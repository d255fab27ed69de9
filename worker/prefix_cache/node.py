"""One piece of the tree of token prefixes, and what is known of it.

Every node owns the tokens between its parent's end and its own end, and what the model computed for exactly these: a
payload in memory, a stored copy, or both. A node's key is the hash of all tokens that lead to it, so the same prefix
has the same key however it was cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from worker.prefix_cache.tokens import count_tokens

KEY_BYTES = 20


class Payload(Protocol):
    """What the index needs to know of the opaque things it keeps in memory. `thin` gives the same without what only
    makes it a checkpoint; `enriched` the better parts of two payloads of the same tokens."""

    @property
    def nbytes(self) -> int: ...

    @property
    def arrays(self) -> int:
        """Buffers of the device's that it holds alone."""

    @property
    def thin_bytes(self) -> int:
        """Bytes that `thin` would free."""

    @property
    def is_checkpoint(self) -> bool: ...

    @property
    def is_held(self) -> bool:
        """Whether dropping it would free nothing now, but for `thin_bytes`, because it is in use elsewhere."""

    def split(self, at: int) -> tuple[Any, Any]: ...

    def thin(self) -> Any: ...

    def enriched(self, other: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A copy outside memory of what was computed for tokens `start..end`, named by the key of the node it was made
    for. Nodes that came out of cutting that node share it."""

    key: bytes
    start: int
    end: int
    nbytes: int


P = TypeVar("P", bound=Payload)


class Node(Generic[P]):
    """`start` and `end` are depths in tokens; `tokens` are those between. A root is empty and has no parent.

    `is_checkpoint` says whether a prefix may be resumed at `end`, from memory or from the stored copy. A node with
    neither is a hole: its stored copy turned out to be damaged. Whoever computes its tokens again fills it.
    """

    __slots__ = (
        "_hash",
        "children",
        "end",
        "holds",
        "is_checkpoint",
        "parent",
        "payload",
        "pins",
        "priority",
        "start",
        "stored",
        "tokens",
        "uses",
        "weight",
    )

    _hash: hashlib.blake2b
    start: int
    end: int

    def __init__(self, parent: Node[P] | None, tokens: bytes, *, seed: bytes = b"") -> None:
        """`seed` tells roots apart."""
        self.parent = parent
        self.tokens = tokens
        self._hash = parent._hash.copy() if parent is not None else hashlib.blake2b(seed, digest_size=KEY_BYTES)
        self._hash.update(tokens)
        self.start = parent.end if parent is not None else 0
        self.end = self.start + count_tokens(tokens)
        self.payload: P | None = None
        self.stored: Stored | None = None
        self.is_checkpoint = False
        self.children: dict[bytes, list[Node[P]]] = {}  # by first token
        self.pins = 0  # while any, the node stays in the tree
        self.holds = 0  # while any, its payload stays in memory
        self.uses = 1
        self.weight = 1.0
        self.priority = 0.0

    @property
    def key(self) -> bytes:
        return self._hash.digest()

    @property
    def is_hole(self) -> bool:
        return self.payload is None and self.stored is None

    def each_child(self) -> Iterator[Node[P]]:
        for siblings in self.children.values():
            yield from siblings


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(Generic[P]):
    """`common` tokens of the prompt are known; `depth` of them can be resumed, at the end of `node` or inside it.

    `is_parted` says that what is known goes on differently there; otherwise it ends, and the prompt only grew.
    """

    node: Node[P]
    depth: int
    common: int
    is_parted: bool
