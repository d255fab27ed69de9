"""The prefix index against a naive model of it, and its rules one by one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.node import Node, Stored
from worker.prefix_cache.tokens import common_tokens, pack_tokens, slice_tokens, unpack_tokens

BLOCK = 4


@dataclass(frozen=True)
class Piece:
    """A payload that knows which tokens it stands for. `has_state` makes it a checkpoint."""

    tokens: tuple[int, ...]
    has_state: bool = True

    @property
    def nbytes(self) -> int:
        return 10 * len(self.tokens) + self.thin_bytes

    @property
    def arrays(self) -> int:
        return 1 + self.has_state

    @property
    def thin_bytes(self) -> int:
        return 5 if self.has_state else 0

    @property
    def is_checkpoint(self) -> bool:
        return self.has_state

    @property
    def is_held(self) -> bool:
        return False

    def split(self, at: int) -> tuple[Piece, Piece]:
        assert 0 < at < len(self.tokens)
        return Piece(self.tokens[:at], False), Piece(self.tokens[at:], self.has_state)

    def thin(self) -> Piece:
        return Piece(self.tokens, False)

    def enriched(self, other: Piece) -> Piece:
        assert other.tokens == self.tokens
        return Piece(self.tokens, self.has_state or other.has_state)


def build_index(*, is_divisible: bool, per_token_s: float = 1.0) -> PrefixIndex[Piece]:
    return PrefixIndex(
        fingerprint=b"model",
        block_tokens=BLOCK,
        is_divisible=is_divisible,
        recompute_s=lambda start, end: (end - start) * per_token_s,
    )


def add(index: PrefixIndex[Piece], tokens: list[int], salt: str = "", *, weight: float = 1.0) -> Node[Piece]:
    """What a request does that computes the whole of `tokens` and ends at once."""
    packed = pack_tokens(tokens)
    match = index.match(salt, packed, len(tokens))
    depth = index.attachment(match)
    if match.depth == len(tokens):
        return match.node
    return index.insert(
        match.node, depth, slice_tokens(packed, depth, len(tokens)), Piece(tuple(tokens[depth:])), weight=weight
    )


def depth_of(index: PrefixIndex[Piece], tokens: list[int], salt: str = "") -> int:
    return index.match(salt, pack_tokens(tokens), len(tokens)).depth


def kept_tokens(index: PrefixIndex[Piece], tokens: list[int], salt: str = "") -> list[int]:
    """The tokens that the payloads along a match stand for, cut at its depth."""
    match = index.match(salt, pack_tokens(tokens), len(tokens))
    found: list[int] = []
    for node in index.path(match.node):
        assert node.payload is not None
        found += node.payload.tokens
    return found[: match.depth]


class AgainstNaive(RuleBasedStateMachine):
    """Sequences over three tokens, so that they branch at every depth and within blocks."""

    index: PrefixIndex[Piece]

    @initialize(is_divisible=st.booleans())
    def start(self, is_divisible: bool) -> None:
        self.is_divisible = is_divisible
        self.index = build_index(is_divisible=is_divisible)
        self.known: dict[str, set[tuple[int, ...]]] = {"": set(), "tenant": set()}
        self.files: dict[bytes, tuple[Stored, Piece]] = {}
        self.pinned: list[tuple[str, list[int], Node[Piece]]] = []
        self.is_exact = True  # nothing was lost so far: look-ups must find all that the naive model has

    sequences = st.lists(st.integers(0, 2), min_size=1, max_size=20)
    salts = st.sampled_from(["", "tenant"])

    @rule(tokens=sequences, salt=salts)
    def insert(self, tokens: list[int], salt: str) -> None:
        add(self.index, tokens, salt)
        self.known[salt].add(tuple(tokens))
        assert not self.is_exact or depth_of(self.index, tokens, salt) == len(tokens)

    @rule(tokens=sequences, salt=salts)
    def look_up(self, tokens: list[int], salt: str) -> None:
        expected = 0
        for other in self.known[salt]:
            shared = common_tokens(pack_tokens(other), pack_tokens(tokens))
            if self.is_divisible or shared == len(other):
                expected = max(expected, shared)
        depth = depth_of(self.index, tokens, salt)
        assert depth == expected if self.is_exact else depth <= expected

    @rule(tokens=sequences, salt=salts)
    def pin(self, tokens: list[int], salt: str) -> None:
        node = self.index.match(salt, pack_tokens(tokens), len(tokens)).node
        self.pinned.append((salt, tokens, self.index.pin(node)))

    @precondition(lambda self: self.pinned)
    @rule(more=sequences)
    def commit_below_a_pin(self, more: list[int]) -> None:
        salt, tokens, node = self.pinned.pop()
        whole = tokens[: node.end] + more
        if pack_tokens(tokens)[: 4 * node.end] == b"".join(n.tokens for n in self.index.path(node)) and node.end:
            self.index.insert(node, node.end, pack_tokens(more), Piece(tuple(more)))
            self.known[salt].add(tuple(whole))
        self.index.unpin(node)

    @rule(budget=st.integers(0, 600))
    def evict(self, budget: int) -> None:
        self.index.evict(budget)
        self.is_exact = False
        if not self.pinned and all(node.stored is None for node in self.index.nodes()):
            assert self.index.nbytes <= budget

    @rule()
    def write_files(self) -> None:
        for node in list(self.index.changed.values()):
            assert node.payload is not None
            stored = Stored(key=node.key, start=node.start, end=node.end, nbytes=node.payload.nbytes)
            self.files[node.key] = (stored, node.payload)
            self.index.set_stored(node, stored)
        self.index.changed.clear()
        self.delete_dropped()

    @rule(budget=st.integers(0, 600))
    def evict_files(self, budget: int) -> None:
        self.index.evict_stored(budget)
        self.is_exact = False
        self.delete_dropped()

    @rule(data=st.data())
    def damage_a_file(self, data: st.DataObject) -> None:
        stored = [node.stored for node in self.index.nodes() if node.stored is not None]
        if stored:
            self.index.lose(data.draw(st.sampled_from(stored)))
            self.is_exact = False
            self.delete_dropped()

    def delete_dropped(self) -> None:
        written = {node.stored.key for node in self.index.nodes() if node.stored is not None}
        for stored in self.index.dropped:
            if stored.key not in written:
                self.files.pop(stored.key, None)
        self.index.dropped.clear()

    @rule(tokens=sequences, salt=salts)
    def resume(self, tokens: list[int], salt: str) -> None:
        """What comes back, from memory or files, is what the tokens stand for."""
        match = self.index.match(salt, pack_tokens(tokens), len(tokens))
        for node in self.index.path(match.node):
            if node.payload is None:
                assert node.stored is not None
                self.index.load(*self.files[node.stored.key])
        self.index.touch(match.node)
        assert kept_tokens(self.index, tokens, salt) == tokens[: match.depth]

    @invariant()
    def is_sound(self) -> None:
        if hasattr(self, "pinned"):
            self.index.check_integrity()


TestAgainstNaive = AgainstNaive.TestCase
TestAgainstNaive.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 63, 64, 65, 1000])
def test_common_tokens_counts_whole_tokens_only(shift: int) -> None:
    left = pack_tokens([7] * shift + [0x01020304] * 500)
    right = pack_tokens([7] * shift + [0x01020305] * 500)
    assert common_tokens(left, right) == shift
    assert common_tokens(left, left[:-4]) == shift + 499
    assert unpack_tokens(left)[:shift] == [7] * shift


def test_salts_keep_equal_prompts_apart() -> None:
    index = build_index(is_divisible=True)
    add(index, [1, 2, 3, 4], "one tenant")
    assert depth_of(index, [1, 2, 3, 4], "another") == 0


def test_branches_share_their_head_and_cost_only_their_own_tokens() -> None:
    index = build_index(is_divisible=True)
    add(index, [1] * 8 + [2] * 8)
    before = index.nbytes
    add(index, [1] * 8 + [3] * 2)
    assert index.nbytes - before == Piece((3, 3)).nbytes


def test_a_shared_head_shorter_than_a_block_cuts_nothing() -> None:
    index = build_index(is_divisible=True)
    add(index, [1, 1, 1] + [2] * 8)
    add(index, [1, 1, 1] + [3] * 8)
    assert len(list(index.nodes())) == 2
    assert depth_of(index, [1, 1, 1, 2, 2]) == 5
    assert depth_of(index, [1, 1, 1, 3, 3]) == 5


def test_models_with_state_resume_at_checkpoints_only() -> None:
    index = build_index(is_divisible=False)
    add(index, [1] * 6)
    add(index, [1] * 6 + [2] * 6)
    assert depth_of(index, [1] * 6 + [2] * 5) == 6
    assert depth_of(index, [1] * 6 + [2] * 6 + [3]) == 12


def test_the_cheap_to_compute_and_the_little_used_go_first() -> None:
    index = build_index(is_divisible=True)
    add(index, [1] * 10)
    add(index, [2] * 10)
    add(index, [3] * 10)
    index.touch(index.match("", pack_tokens([2] * 10), 10).node)
    add(index, [4] * 10, weight=0.1)
    index.evict(index.nbytes - 100)
    assert depth_of(index, [4] * 10) == 0
    index.evict(index.nbytes - 205)
    assert depth_of(index, [2] * 10) == 10
    assert depth_of(index, [1] * 10) + depth_of(index, [3] * 10) == 0


def test_of_equals_the_one_used_longest_ago_goes_first() -> None:
    index = build_index(is_divisible=False)
    for token in range(8):
        add(index, [token] * 10)
    for token in (5, 2, 7, 0):  # each is used as often as every other
        index.touch(index.match("", pack_tokens([token] * 10), 10).node)
    for token in (1, 3, 4, 6):
        index.touch(index.match("", pack_tokens([token] * 10), 10).node)
    for gone in (5, 2, 7, 0, 1, 3, 4):
        index.evict(index.nbytes - 1)
        assert depth_of(index, [gone] * 10) == 0
    assert depth_of(index, [6] * 10) == 10


def test_old_entries_age_and_make_room_for_new_ones() -> None:
    index = build_index(is_divisible=True)
    old = add(index, [1] * 10)
    for _ in range(3):
        index.touch(old)
    for token in range(2, 40):
        add(index, [token] * 10)
        index.evict(250)
    assert depth_of(index, [1] * 10) == 0


def test_pinned_prefixes_stay() -> None:
    index = build_index(is_divisible=True)
    node = index.pin(add(index, [1] * 10))
    index.evict(0)
    assert depth_of(index, [1] * 10) == 10
    index.unpin(node)
    index.evict(0)
    assert depth_of(index, [1] * 10) == 0


def test_a_branch_goes_leaf_by_leaf_while_something_else_must_stay() -> None:
    index = build_index(is_divisible=False)
    pinned = index.pin(add(index, [9] * 4))
    add(index, [1] * 4)
    index.touch(add(index, [1] * 4 + [2] * 4).parent or pinned)
    index.evict(0)
    index.check_integrity()
    assert list(index.nodes()) == [pinned]


def test_states_in_the_middle_are_dropped_before_whole_branches() -> None:
    index = build_index(is_divisible=False)
    add(index, [1] * 4)
    leaf = index.pin(add(index, [1] * 4 + [2] * 4))
    index.evict(0)
    assert depth_of(index, [1] * 4) == 0
    assert depth_of(index, [1] * 4 + [2] * 4) == 8
    index.unpin(leaf)


def test_of_a_stretch_too_large_the_longest_run_of_blocks_stays() -> None:
    index = build_index(is_divisible=True)
    add(index, list(range(100)))
    index.evict(505)
    assert index.nbytes <= 505
    assert index.match("", pack_tokens(list(range(100))), 100).depth == 50 - 50 % BLOCK
    index.check_integrity()


def test_a_stretch_that_cannot_be_cut_goes_whole() -> None:
    index = build_index(is_divisible=False)
    add(index, list(range(100)))
    index.evict(505)
    assert index.nbytes == 0
