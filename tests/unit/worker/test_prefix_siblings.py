"""Those below one node that agree with a prompt: looked up, and the same that looking at all of them would find."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from worker.prefix_cache import siblings as module
from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.siblings import Siblings
from worker.prefix_cache.tokens import common_tokens, count_tokens, pack_tokens


@dataclass(eq=False)
class Piece:
    tokens: bytes
    is_hole: bool = False


def words(rng: random.Random, most: int) -> bytes:
    return pack_tokens([7, *(rng.choice((1, 2, 256)) for _ in range(rng.randrange(most)))])


@pytest.mark.parametrize("seed", range(200))
def test_what_is_looked_up_is_what_looking_at_all_finds(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [Piece(words(rng, 7), rng.random() < 0.2) for _ in range(rng.randrange(1, 30))]
    found: Siblings[Piece] = Siblings()
    for piece in pieces:
        found.add(piece)
    for piece in rng.sample(pieces, len(pieces) // 3):
        found.remove(piece)
        pieces.remove(piece)
    asked = words(rng, 9)
    said = {id(piece): common for piece, common in found.agreeing(asked)}
    every = {id(piece): common_tokens(piece.tokens, asked) for piece in pieces}
    assert said.items() <= every.items()
    whole = {id(piece) for piece in pieces if every[id(piece)] == count_tokens(piece.tokens)}
    assert whole <= said.keys()
    for some in (pieces, [piece for piece in pieces if not piece.is_hole]):
        most = max((every[id(piece)] for piece in some), default=0)
        assert most == max((said[id(piece)] for piece in some if id(piece) in said), default=0)
    assert {piece.tokens for piece in pieces} == {piece.tokens for piece in found}
    for piece in pieces:
        known = found.equal(piece.tokens)
        assert known is not None
        assert known.tokens == piece.tokens


class Payload:
    nbytes = arrays = 1
    thin_bytes = 0
    is_checkpoint = True
    is_held = False

    def split(self, at: int) -> tuple[Payload, Payload]:
        return Payload(), Payload()


def test_a_match_among_a_thousand_conversations_compares_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    index: PrefixIndex[Payload] = PrefixIndex(
        fingerprint=b"m", block_tokens=256, is_divisible=True, recompute_s=lambda a, b: 1.0
    )
    root = index.root("")
    prompts = [pack_tokens([1, 2, 3, *divmod(number, 100), *range(50)]) for number in range(1000)]
    for prompt in prompts:
        index.insert(root, 0, prompt, Payload())  # type: ignore[arg-type]
    assert len(list(index.nodes())) == 1000
    compared = 0

    def counted(left: bytes, right: bytes) -> int:
        nonlocal compared
        compared += 1
        return common_tokens(left, right)

    monkeypatch.setattr(module, "common_tokens", counted)
    for prompt in prompts[::100]:
        assert index.match("", prompt, 1000).depth == 55
    assert compared <= 10 * 4
