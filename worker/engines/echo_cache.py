"""The echo engine's prefix cache: the real tree over tokens, with words as tokens and nothing computed for them.

Budgets count tokens. What has no room in memory stays on a disk there is none of, where one was given: taking it up
from there takes its time at the disk's rate. Nothing of it outlives the process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.marks import NOBODY, Mark, Residents, find_residents, mark
from worker.prefix_cache.node import Match, Stored
from worker.prefix_cache.outline import drop
from worker.prefix_cache.tokens import count_tokens, pack_tokens, slice_tokens

_FINGERPRINT = b"echo"
_BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class _Words:
    """What was computed for so many words."""

    nbytes: int
    arrays: int = 0
    thin_bytes: int = 0
    is_checkpoint: bool = True
    is_held: bool = False

    def split(self, at: int) -> tuple[_Words, _Words]:
        return _Words(at), _Words(self.nbytes - at)

    def thin(self) -> _Words:
        return self

    def enriched(self, _other: Any) -> _Words:
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Of a prompt: tokens that need not be computed, and how many of them come from disk."""

    tokens: int = 0
    restored: int = 0


def pack_words(words: Iterable[str]) -> bytes:
    """A token per word."""
    return pack_tokens([zlib.crc32(word.encode()) for word in words])


class EchoCache:
    """Belongs to the engine's thread. Without memory nothing is kept."""

    def __init__(
        self, *, memory_tokens: int, disk_tokens: int = 0, recompute_s: Callable[[int, int], float] = lambda a, b: b - a
    ) -> None:
        self._memory_tokens = memory_tokens
        self._disk_tokens = disk_tokens
        self._index: PrefixIndex[_Words] = PrefixIndex(
            fingerprint=_FINGERPRINT, block_tokens=_BLOCK_TOKENS, is_divisible=True, recompute_s=recompute_s
        )
        self.version = 0  # changes whenever `find` could say something else
        self._residents = NOBODY
        self._told = 0  # version of these

    @property
    def tokens(self) -> int:
        """In memory."""
        return self._index.nbytes

    def find(self, tenant: str, packed: bytes) -> Head:
        """How much is known of a prompt; its last token is always computed."""
        return self._head(self._match(tenant, packed))

    def take(self, tenant: str, packed: bytes) -> Head:
        """The same, and what lies on disk is in memory now."""
        match = self._match(tenant, packed)
        head = self._head(match)
        for node in self._index.path(match.node):
            if node.payload is None and node.stored is not None:
                self._index.load(node.stored, _Words(node.stored.end - node.stored.start))
        self._index.touch(match.node)
        self._trim()
        return head

    def keep(self, tenant: str, packed: bytes, marks: Sequence[Mark] = (), session: str = "") -> None:
        """All of these tokens were computed."""
        if not self._memory_tokens:
            return
        match = self._index.match(tenant, packed, count_tokens(packed))
        depth = self._index.attachment(match)
        tokens = slice_tokens(packed, depth, count_tokens(packed))
        node = match.node
        if tokens:
            node = self._index.insert(node, depth, tokens, _Words(count_tokens(tokens)))
        mark(self._index, node, marks, session)
        self._store()
        self._trim()

    @property
    def index(self) -> PrefixIndex[_Words]:
        return self._index

    def drop(self, keys: Collection[bytes]) -> int:
        """See `worker.prefix_cache.outline.drop`."""
        dropped = drop(self._index, keys)
        self._trim()
        return dropped

    def residents(self) -> Residents:
        """As of now; the same value while nothing changes."""
        if self._told != self.version:
            self._residents, self._told = find_residents(self._index), self.version
        return self._residents

    def _match(self, tenant: str, packed: bytes) -> Match[_Words]:
        return self._index.match(tenant, packed, count_tokens(packed) - 1)

    def _head(self, match: Match[_Words]) -> Head:
        absent = (node for node in self._index.path(match.node) if node.payload is None)
        restored = sum(min(node.end, match.depth) - node.start for node in absent)
        return Head(tokens=match.depth, restored=restored)

    def _store(self) -> None:
        for node in self._index.changed.values():
            if self._disk_tokens:
                copy = Stored(key=node.key, start=node.start, end=node.end, nbytes=node.end - node.start)
                self._index.set_stored(node, copy)
        self._index.changed.clear()

    def _trim(self) -> None:
        self.version += 1
        self._index.evict(self._memory_tokens)
        self._index.evict_stored(self._disk_tokens)
        self._index.dropped.clear()
