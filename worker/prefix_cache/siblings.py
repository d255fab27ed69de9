"""The nodes below one node that begin with the same token: in the order of their tokens, so that those which agree
with a prompt are looked up, not looked for, however many conversations go on from one head."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from worker.prefix_cache.tokens import TOKEN_BYTES, common_tokens, count_tokens


class Piece(Protocol):
    """What is needed to know of a node."""

    tokens: bytes

    @property
    def is_hole(self) -> bool: ...


N = TypeVar("N", bound=Piece)


class Siblings(Generic[N]):
    """The tokens of a node do not change while it is here."""

    __slots__ = ("_keys", "_nodes", "longest")

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._nodes: list[N] = []
        self.longest = 0  # tokens of a node, at the most

    def __iter__(self) -> Iterator[N]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: N) -> None:
        at = bisect_right(self._keys, node.tokens)
        self._keys.insert(at, node.tokens)
        self._nodes.insert(at, node)
        self.longest = max(self.longest, count_tokens(node.tokens))

    def remove(self, node: N) -> None:
        at = self._nodes.index(node, bisect_left(self._keys, node.tokens))
        del self._keys[at], self._nodes[at]

    def equal(self, tokens: bytes) -> N | None:
        """The one of exactly these tokens."""
        at = bisect_left(self._keys, tokens)
        return self._nodes[at] if at < len(self._keys) and self._keys[at] == tokens else None

    def agreeing(self, tokens: bytes) -> Iterator[tuple[N, int]]:
        """Of `tokens`, which begin as all of these do, and the nodes: those whose all tokens agree, and of the others
        the ones that agree furthest, down to one on each side that is no hole. With the tokens that agree."""
        at = bisect_right(self._keys, tokens)
        yield from self._beside(range(at, len(self._nodes)), tokens)
        yield from self._before(at, tokens)

    def _beside(self, places: range, tokens: bytes) -> Iterator[tuple[N, int]]:
        """Further on in the order less and less agrees."""
        for at in places:
            yield self._nodes[at], common_tokens(self._keys[at], tokens)
            if not self._nodes[at].is_hole:
                return

    def _before(self, at: int, tokens: bytes) -> Iterator[tuple[N, int]]:
        """What lies between a beginning of `tokens` and `tokens` has that beginning, too. So the next of those whose
        all tokens agree lies before what agrees at the place of these, shortened to that."""
        has_partial = False
        while at > 0:
            key, node = self._keys[at - 1], self._nodes[at - 1]
            common = common_tokens(key, tokens)
            is_whole = common * TOKEN_BYTES == len(key)
            if is_whole or not has_partial:
                yield node, common
            has_partial = has_partial or not (is_whole or node.is_hole)
            at -= 1
            if has_partial and not is_whole:
                at = bisect_right(self._keys, tokens[: common * TOKEN_BYTES], 0, at)
