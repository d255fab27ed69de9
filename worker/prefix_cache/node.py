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

from worker.prefix_cache.siblings import Siblings
from worker.prefix_cache.tokens import TOKEN_BYTES, count_tokens, slice_tokens

KEY_BYTES = 20
_MAX_ANSWERS = 64  # that one node lists
MAIN_WEIGHT = 1.0  # of what belongs to a person's own conversation


def tenant_seed(fingerprint: bytes, salt: str) -> bytes:
    """Of the root of a tenant's tree: the same wherever the model is the same."""
    return hashlib.blake2b(salt.encode(), key=fingerprint, digest_size=KEY_BYTES).digest()


def key_of(seed: bytes, tokens: bytes) -> bytes:
    """Of the node, in the tree with this root, to which these tokens lead."""
    return hashlib.blake2b(seed + tokens, digest_size=KEY_BYTES).digest()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSpan:
    """Which of a prefix's tokens an answer was: those between two depths, and then `rest`, of which nothing was
    computed. `key` names the answer, `reasoning` is a digest of what it thought (see `worker.prompt.memory`)."""

    key: bytes
    reasoning: bytes
    start: int
    end: int
    rest: tuple[int, ...] = ()


P = TypeVar("P", bound=Payload)


class Node(Generic[P]):
    """`start` and `end` are depths in tokens; `tokens` are those between. A root is empty and has no parent.

    `is_checkpoint` says whether a prefix may be resumed at `end`, from memory or from the stored copy. A node with
    neither is a hole: its stored copy turned out to be damaged. Whoever computes its tokens again fills it. `answers`
    are those that end in it, `marks` names that others have given to prefixes that end in it, by depth.
    """

    __slots__ = (
        "_hash",
        "answers",
        "children",
        "end",
        "holds",
        "is_checkpoint",
        "marks",
        "parent",
        "payload",
        "pins",
        "priority",
        "ranked",
        "sessions",
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
        self.answers: tuple[AnswerSpan, ...] = ()
        self.children: dict[bytes, Siblings[Node[P]]] = {}  # by first token
        self.pins = 0  # while any, the node stays in the tree
        self.holds = 0  # while any, its payload stays in memory
        self.marks: dict[bytes, int] = {}
        self.sessions: tuple[str, ...] = ()  # digests of the latest that came through here, the latest last
        self.uses = 1
        self.weight = 1.0
        self.priority = 0.0
        self.ranked = 0  # when `priority` was set, in such settings of the tree

    @property
    def key(self) -> bytes:
        return self._hash.digest()

    @property
    def rank(self) -> tuple[float, int, int]:
        """The least goes first: of equal priority whatever was used longest ago, of that the deepest."""
        return self.priority, self.ranked, -self.start

    @property
    def is_hole(self) -> bool:
        return self.payload is None and self.stored is None

    def each_child(self) -> Iterator[Node[P]]:
        for siblings in self.children.values():
            yield from siblings

    def at(self, depth: int) -> Node[P]:
        """The node that holds the last of the first `depth` tokens, of those on the way here."""
        node = self
        while depth <= node.start and node.parent is not None:
            node = node.parent
        return node

    def add_answer(self, span: AnswerSpan) -> bool:
        """Whether it was not known."""
        if span in self.answers:
            return False
        self.answers = (*(each for each in self.answers if each.key != span.key), span)[-_MAX_ANSWERS:]
        return True

    def hand_answers(self, upper: Node[P]) -> None:
        """This node begins behind `upper` now: what ends there is listed there."""
        upper.answers = tuple(span for span in self.answers if span.end <= upper.end)
        self.answers = tuple(span for span in self.answers if span.end > upper.end)

    def between(self, start: int, end: int) -> bytes:
        """Of the tokens that lead to this node's end, those between two depths."""
        parts: list[bytes] = []
        node = self
        while node.parent is not None and node.end > start:
            parts.append(slice_tokens(node.tokens, max(start - node.start, 0), max(end - node.start, 0)))
            node = node.parent
        return b"".join(reversed(parts))

    def check(self) -> None:
        """Raises AssertionError when the node, which is no root, is not what its text says."""
        assert self.parent is not None
        assert self in self.parent.children[self.tokens[:TOKEN_BYTES]]
        assert self.parent.end == self.start < self.end == self.start + count_tokens(self.tokens)
        assert self.pins >= 0
        assert self.is_checkpoint or self.payload is None or not self.payload.is_checkpoint
        assert self.stored is None or self.stored.start <= self.start < self.end <= self.stored.end
        assert not (self.is_hole and self.is_checkpoint)
        assert all(self.start < span.end <= self.end for span in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(Generic[P]):
    """`common` tokens of the prompt are known; `depth` of them can be resumed, at the end of `node` or inside it.

    `is_parted` says that what is known goes on differently there; otherwise it ends, and the prompt only grew.
    """

    node: Node[P]
    depth: int
    common: int
    is_parted: bool
