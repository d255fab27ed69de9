"""A tree of token prefixes: what was computed for each piece, in memory, in a file, or both.

Branches of a conversation share the nodes of their common head, so a fork costs only its own tokens. Each tenant has a
tree of its own.

Two prompts that diverge inside a node cut it at a whole number of blocks, so that a shared head shorter than a block
is kept twice instead of cutting everything into crumbs. Where a checkpoint is set, a node is cut exactly.

A prefix can be resumed at any depth when payloads can be cut anywhere (`is_divisible`), otherwise only where a node
ends in a checkpoint.

Eviction weighs the seconds that a payload would take to compute again against its bytes, with ageing: the priority
of a node is `clock + weight * uses * seconds / bytes`, and the clock rises to the priority of whatever was evicted
last (GreedyDual-Size-Frequency; Cherkasova, HPL-98-69R1). Of equals the one that was used longest ago goes. A payload
with a stored copy may leave memory at any time; one without takes its node along, so only leaves that nobody pins may
go.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Generic

from worker.prefix_cache.eviction import fixed_bytes, is_evictable, may_lose
from worker.prefix_cache.node import AnswerSpan, Match, Node, P, Stored, tenant_seed
from worker.prefix_cache.siblings import Siblings
from worker.prefix_cache.tokens import TOKEN_BYTES, common_tokens, count_tokens, slice_tokens


class PrefixIndex(Generic[P]):
    """Not thread-safe: it belongs to the engine thread.

    `fingerprint` tells models apart, so that one never takes up what another stored. `recompute_s(start, end)`
    predicts the seconds that computing tokens `start..end` of a prompt takes.
    """

    def __init__(
        self, *, fingerprint: bytes, block_tokens: int, is_divisible: bool, recompute_s: Callable[[int, int], float]
    ) -> None:
        self._fingerprint = fingerprint
        self._block_tokens = block_tokens
        self._is_divisible = is_divisible
        self._recompute_s = recompute_s
        self._roots: dict[bytes, Node[P]] = {}
        self._clock = 0.0
        self._rankings = 0
        self.nbytes = 0
        self.arrays = 0
        self.stored_bytes = 0
        self.evictions = 0
        self._holders: dict[bytes, list[Node[P]]] = {}  # nodes by the key of the stored copy they share
        self.changed: dict[bytes, Node[P]] = {}  # nodes without a stored copy, new since the caller cleared this
        self.dropped: list[Stored] = []  # copies that no node uses any more, since the caller cleared this

    # -- reading ------------------------------------------------------------------------------------------------

    def root(self, salt: str) -> Node[P]:
        """The tree of one tenant."""
        return self.root_of(tenant_seed(self._fingerprint, salt))

    def root_of(self, seed: bytes) -> Node[P]:
        """The tree whose root was made of `seed`, as stored copies name it."""
        root = self._roots.get(seed)
        if root is None:
            root = self._roots[seed] = Node(None, b"", seed=seed)
        return root

    def roots(self) -> Iterator[Node[P]]:
        """Of all tenants."""
        yield from self._roots.values()

    @property
    def is_divisible(self) -> bool:
        return self._is_divisible

    @staticmethod
    def root_above(node: Node[P]) -> Node[P]:
        while node.parent is not None:
            node = node.parent
        return node

    def seed_of(self, node: Node[P]) -> bytes:
        """The seed of the root above `node`."""
        above = self.root_above(node)
        return next(seed for seed, root in self._roots.items() if root is above)

    def match(self, salt: str, tokens: bytes, limit: int) -> Match[P]:
        """The longest known prefix of `tokens` that can be resumed at a depth of at most `limit`."""
        root = self.root(salt)
        best, depth, most, is_parted = root, 0, 0, False
        for node, common in self._agreeing(root, tokens, 0):
            if common > most:
                most, is_parted = common, common < node.end or bool(node.children)
            resumable = min(common, limit) if self._is_divisible else common
            if resumable <= depth or node.is_hole:
                continue
            if self._is_divisible or (common == node.end <= limit and node.is_checkpoint):
                best, depth = node, resumable
        is_parted = is_parted and most < count_tokens(tokens)
        return Match(node=best, depth=depth, common=most, is_parted=is_parted)

    def _agreeing(self, top: Node[P], tokens: bytes, depth: int) -> Iterator[tuple[Node[P], int]]:
        """The nodes below `top`, which lies at `depth`, that agree with `tokens`, each with the depth down to which it
        agrees; of siblings that do so in part, those that agree furthest. Parents come before children; nothing comes
        below a hole."""
        stack = [top]
        while stack:
            node = stack.pop()
            at = node.end - top.end + depth
            siblings = node.children.get(slice_tokens(tokens, at, at + 1))
            if siblings is None:
                continue
            for child, shared in siblings.agreeing(slice_tokens(tokens, at, at + siblings.longest)):
                if shared == child.end - child.start and not child.is_hole:
                    stack.append(child)
                yield child, at + shared

    def known(self, root: Node[P], tokens: bytes) -> int:
        """How many of the tokens are known, in memory or stored, whether or not they can be resumed there."""
        return max((depth for node, depth in self._agreeing(root, tokens, 0) if not node.is_hole), default=0)

    def path(self, node: Node[P]) -> list[Node[P]]:
        """The nodes from below the root down to `node`."""
        nodes = []
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def touch(self, node: Node[P]) -> None:
        """Note that the prefix down to `node` was used."""
        for member in reversed(self.path(node)):
            member.uses += 1
            self._rank(member)

    def nodes(self) -> Iterator[Node[P]]:
        """Every node but the roots, parents before children."""
        stack = [child for root in self._roots.values() for child in root.each_child()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.each_child())

    def raise_weight(self, node: Node[P], weight: float) -> None:
        """What leads to `node` is of use to somebody of this weight. What was less, and has no stored copy, is
        `changed` again."""
        for member in self.path(node):
            if member.weight < weight:
                member.weight = weight
                self.note_unstored(member)

    # -- pins ---------------------------------------------------------------------------------------------------

    def pin(self, node: Node[P]) -> Node[P]:
        """Keep `node`, and so everything above it, in the tree. A payload that is stored may still leave memory."""
        node.pins += 1
        return node

    def unpin(self, node: Node[P]) -> None:
        node.pins -= 1
        assert node.pins >= 0

    def hold(self, node: Node[P]) -> None:
        """Keep the payloads of the prefix down to `node` in memory, those that are there and those to come."""
        for member in self.path(node):
            member.holds += 1

    def release(self, node: Node[P]) -> None:
        for member in self.path(node):
            member.holds -= 1
            assert member.holds >= 0

    # -- writing ------------------------------------------------------------------------------------------------

    def attachment(self, match: Match[P]) -> int:
        """The depth below which what a prompt adds to its match is to be inserted: the end of the matched node, or
        the last whole block inside it before the match's depth."""
        node = match.node
        inside = match.depth - node.start
        return match.depth if match.depth >= node.end else match.depth - inside % self._block_tokens

    def insert(self, node: Node[P], depth: int, tokens: bytes, payload: P, *, weight: float = 1.0) -> Node[P]:
        """Add what was computed for `tokens` below `depth`: an `attachment` of a match with `node`, or the end of an
        earlier insertion that gave `node`.

        Returns the node that holds the last of the tokens. What the index already has is not kept twice, but for
        shared pieces shorter than a block.
        """
        node = node.at(depth)
        if depth < node.end:
            parent, inside = node.parent, depth - node.start
            assert parent is not None
            rest = slice_tokens(node.tokens, inside, node.end - node.start)
            landed, tokens, payload = self._merge(node, inside, common_tokens(rest, tokens), tokens, payload)
            node = landed or parent
        while tokens:
            way = self._known_way(node, tokens)
            if not way:
                return self._attach(node, tokens, payload, weight)
            for known in way:
                landed, tokens, payload = self._merge(known, 0, common_tokens(known.tokens, tokens), tokens, payload)
                node = landed or node
                if tokens and landed is not known:
                    return self._attach(node, tokens, payload, weight)
        return node

    def note(self, node: Node[P], span: AnswerSpan) -> None:
        """An answer ends on the way to `node`, or in it. A copy of its tokens that is theirs alone is stored again."""
        node = node.at(span.end)
        is_new = node.parent is not None and node.add_answer(span)
        if is_new and node.payload is not None and (not node.stored or self._holders[node.stored.key] == [node]):
            self._set_stored(node, None)
            self.changed[node.key] = node

    def _known_way(self, top: Node[P], tokens: bytes) -> list[Node[P]]:
        """The nodes below `top` that lead along `tokens` as far as is known, the last perhaps in part."""
        furthest, most, is_whole = top, 0, False
        for node, common in self._agreeing(top, tokens, 0):
            ends_here = common == node.end - top.end
            if common > most or (common == most and ends_here and not is_whole):
                furthest, most, is_whole = node, common, ends_here
        way = []
        while furthest is not top:
            way.append(furthest)
            assert furthest.parent is not None
            furthest = furthest.parent
        return way[::-1]

    def _merge(
        self, node: Node[P], inside: int, shared: int, tokens: bytes, payload: P
    ) -> tuple[Node[P] | None, bytes, P]:
        """Lay `tokens`, of which the first `shared` agree with `node` from `inside` on, over the node.

        Returns the node that holds the part they share (None when they share no whole block), and what is left.
        """
        length, size = count_tokens(tokens), node.end - node.start
        at = inside + shared
        if shared < length or not (at == size or self._is_divisible):
            cut = at if at == size or shared == length else at - at % self._block_tokens
            if cut == 0:
                return None, tokens, payload
            if cut < size:
                node = self._split(node, cut)
            shared = cut - inside
        if shared == length:
            if inside == 0:
                self._enrich(node, payload)
            return node, b"", payload
        if shared:
            head, payload = payload.split(shared)
            if inside == 0:
                self._enrich(node, head)
        return node, slice_tokens(tokens, shared, length), payload

    def _attach(self, parent: Node[P], tokens: bytes, payload: P, weight: float) -> Node[P]:
        node: Node[P] = Node(parent, tokens)
        node.weight = weight
        self._siblings(node).add(node)
        self._set_payload(node, payload)
        self.changed[node.key] = node
        return node

    def _enrich(self, node: Node[P], payload: P) -> None:
        """Let `node` have what `payload`, computed for the same tokens, holds and it lacks."""
        if node.payload is not None:
            if self._is_divisible or node.payload.is_checkpoint:
                return
            payload = node.payload.enriched(payload)
            if payload.nbytes == node.payload.nbytes:
                return
        elif node.stored is not None and (node.is_checkpoint or not payload.is_checkpoint):
            return
        self._set_payload(node, payload)
        self._set_stored(node, None)
        self.changed[node.key] = node

    def _split(self, node: Node[P], at: int) -> Node[P]:
        """Cut `node` after its first `at` tokens and return the new upper part; `node` itself stays the lower one."""
        parent, payload = node.parent, node.payload
        assert parent is not None
        assert 0 < at < node.end - node.start
        self._siblings(node).remove(node)
        upper: Node[P] = Node(parent, slice_tokens(node.tokens, 0, at))
        upper.uses, upper.weight, upper.holds, upper.sessions = node.uses, node.weight, node.holds, node.sessions
        self._siblings(upper).add(upper)
        node.tokens = slice_tokens(node.tokens, at, node.end - node.start)
        node.parent, node.start = upper, upper.end
        node.hand_answers(upper)
        upper.marks = {mark: depth for mark, depth in node.marks.items() if depth <= upper.end}
        node.marks = {mark: depth for mark, depth in node.marks.items() if depth > upper.end}
        self._siblings(node).add(node)
        self._set_stored(upper, node.stored)
        if payload is not None:
            head, tail = payload.split(at)
            self._set_payload(upper, head)
            self._set_payload(node, tail)
        if node.stored is None:
            self.changed[upper.key] = upper
            self.changed[node.key] = node
        return upper

    def _siblings(self, node: Node[P]) -> Siblings[Node[P]]:
        assert node.parent is not None
        return node.parent.children.setdefault(node.tokens[:TOKEN_BYTES], Siblings())

    def _set_payload(self, node: Node[P], payload: P | None) -> None:
        if node.payload is not None:
            self.nbytes -= node.payload.nbytes
            self.arrays -= node.payload.arrays
        node.payload = payload
        if payload is not None:
            self.nbytes += payload.nbytes
            self.arrays += payload.arrays
            node.is_checkpoint = node.is_checkpoint or payload.is_checkpoint
            self._rank(node)

    def _set_stored(self, node: Node[P], stored: Stored | None) -> None:
        old = node.stored
        if old is not None:
            holders = self._holders[old.key]
            holders.remove(node)
            if not holders:
                del self._holders[old.key]
                self.stored_bytes -= old.nbytes
                self.dropped.append(old)
        node.stored = stored
        if stored is not None:
            if stored.key not in self._holders:
                self._holders[stored.key] = []
                self.stored_bytes += stored.nbytes
            self._holders[stored.key].append(node)

    def _remove(self, node: Node[P]) -> None:
        """Take a leaf out of the tree."""
        assert node.parent is not None
        assert not node.children
        self._set_payload(node, None)
        self._set_stored(node, None)
        self.changed.pop(node.key, None)
        siblings = self._siblings(node)
        siblings.remove(node)
        if not siblings:
            del node.parent.children[node.tokens[:TOKEN_BYTES]]
        node.parent = None

    def forget(self, node: Node[P]) -> bool:
        """Take a leaf that nobody needs now out of the tree, with its stored copy. Whether it was one."""
        is_free = not (node.children or node.pins or node.holds or node.parent is None)
        if is_free:
            self._remove(node)
        return is_free

    # -- stored copies --------------------------------------------------------------------------------------------

    def set_stored(self, node: Node[P], stored: Stored) -> None:
        """A copy of the node's payload was stored."""
        self._set_stored(node, stored)

    def note_unstored(self, node: Node[P]) -> None:
        """No copy of the node came about: it is `changed` still, if it is there."""
        if node.parent is not None and node.payload is not None and node.stored is None:
            self.changed[node.key] = node

    def cut(self, node: Node[P], depth: int) -> Node[P]:
        """The node that ends at `depth`, on the way from the root to `node` or inside it."""
        node = node.at(depth)
        return node if depth == node.end else self._split(node, depth - node.start)

    def adopt(
        self, parent: Node[P], tokens: bytes, stored: Stored, *, is_checkpoint: bool, answers: tuple[AnswerSpan, ...]
    ) -> Node[P] | None:
        """A node for a copy that an earlier process stored. What `parent` already has for these tokens stays. None
        when the copy's key is not that of these tokens."""
        siblings = parent.children.get(tokens[:TOKEN_BYTES])
        known = siblings.equal(tokens) if siblings is not None else None
        if known is not None:
            return known
        node: Node[P] = Node(parent, tokens)
        if node.key != stored.key:
            return None
        node.is_checkpoint, node.answers = is_checkpoint, answers
        self._siblings(node).add(node)
        self._set_stored(node, stored)
        self._rank(node)
        return node

    def load(self, stored: Stored, payload: P) -> None:
        """The copy `stored` was read back: give its parts to the nodes that share it and have no payload."""
        for node in self._holders.get(stored.key, []):
            if node.payload is None or (node.is_checkpoint and not node.payload.is_checkpoint):
                part = payload
                if node.end < stored.end:
                    part = part.split(node.end - stored.start)[0]
                if node.start > stored.start:
                    part = part.split(node.start - stored.start)[1]
                self._set_payload(node, part)

    def lose(self, stored: Stored) -> None:
        """The copy `stored` is gone or damaged: nodes that have nothing else become holes."""
        for node in list(self._holders.get(stored.key, [])):
            self._set_stored(node, None)
            node.is_checkpoint = node.payload is not None and node.payload.is_checkpoint
            if node.payload is not None:
                self.changed[node.key] = node
            elif not node.children and not node.pins:
                self._remove(node)

    # -- eviction -------------------------------------------------------------------------------------------------

    def evict(self, max_bytes: int) -> int:
        """Drop the least valuable payloads until at most `max_bytes` are held or no more may go. Of the last one only
        as many whole blocks go as have to, where it can be cut. Bytes freed."""
        before = self.nbytes
        if before <= max_bytes:
            return 0
        heap = [(*node.rank, id(node), node) for node in self.nodes() if is_evictable(node)]
        heapq.heapify(heap)
        while heap and self.nbytes > max_bytes:
            priority, *_, node = heapq.heappop(heap)
            if not is_evictable(node):
                continue  # it was in the heap twice: for its state, and as a leaf once its children were gone
            self._clock = max(self._clock, priority)
            self.evictions += 1
            payload, parent = node.payload, node.parent
            assert payload is not None
            assert parent is not None  # whoever has a payload is in the tree
            if node.stored is not None and not payload.is_held:
                self._set_payload(node, None)
            elif not (node.children or node.pins or payload.is_held):
                parent = self._cut_off(node, self.nbytes - max_bytes) or parent
                self._remove(node)
                if is_evictable(parent):
                    heapq.heappush(heap, (*parent.rank, id(parent), parent))
            else:
                self._set_payload(node, payload.thin())
                node.is_checkpoint = node.is_checkpoint and node.stored is not None
        return before - self.nbytes

    def _cut_off(self, leaf: Node[P], excess_bytes: int) -> Node[P] | None:
        """Cut a leaf so that what stays of it, in whole blocks, is all that may be held. The part that stays; None when
        nothing of it may."""
        assert leaf.payload is not None
        size = leaf.end - leaf.start
        kept = size - math.ceil(excess_bytes * size / max(1, leaf.payload.nbytes))
        kept -= kept % self._block_tokens
        return self._split(leaf, kept) if self._is_divisible and kept > 0 else None

    def fixed_bytes(self) -> int:
        """Bytes that eviction could not free now: what pinned prefixes need, no copy was stored of, and is not held
        elsewhere."""
        return fixed_bytes(self.nodes())

    def evict_stored(self, max_bytes: int) -> int:
        """Drop the least valuable stored copies until at most `max_bytes` are held or no more may go. Bytes freed.
        What has to be deleted is in `dropped`."""
        before = self.stored_bytes
        while self.stored_bytes > max_bytes:
            groups = [nodes for nodes in self._holders.values() if may_lose(nodes)]
            if not groups:
                break
            group = min(groups, key=lambda nodes: max(node.rank for node in nodes))
            for node in sorted(group, key=lambda node: -node.start):
                if node.payload is None:
                    self._remove(node)
                else:
                    self._set_stored(node, None)
                    node.is_checkpoint = node.payload.is_checkpoint
        return before - self.stored_bytes

    def _rank(self, node: Node[P]) -> None:
        nbytes = node.payload.nbytes if node.payload is not None else node.stored.nbytes if node.stored else 0
        seconds = self._recompute_s(node.start, node.end)
        self._rankings += 1
        node.ranked = self._rankings
        node.priority = self._clock + node.weight * node.uses * seconds / max(1, nbytes)

    # -- checks ---------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Raises AssertionError when the tree is not what its text says. For tests and idle moments."""
        payload_bytes = arrays = 0
        held: dict[bytes, int] = {}
        for node in self.nodes():
            node.check()
            if node.payload is not None:
                payload_bytes += node.payload.nbytes
                arrays += node.payload.arrays
            if node.stored is not None:
                assert node in self._holders[node.stored.key]
                held[node.stored.key] = node.stored.nbytes
        assert (payload_bytes, arrays) == (self.nbytes, self.arrays)
        assert held.keys() == self._holders.keys()
        assert sum(held.values()) == self.stored_bytes
        for node in self.changed.values():
            assert node.parent is not None
            assert node.payload is not None
