"""Tokens to text, one at a time: whole characters only, and together what the tokenizer decodes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    NaiveStreamingDetokenizer,
    SPMStreamingDetokenizer,
    TokenizerWrapper,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.unit.worker.prompt_models import tokenizer_of
from worker.engines.tokens.detokenize import TokenTexts, byte_level_table

SENTENCES = ["Hello, world", "the quick brown fox", "naïve café", "你好世界", "a b  c", "x = [1, 2]\n\treturn x"]


def _wrapped(tokenizer: Tokenizer, detokenizer: Any) -> TokenizerWrapper:
    return TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=tokenizer), detokenizer)


def _sentencepiece(*, trim: bool) -> TokenizerWrapper:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if trim else "never", split=False)
    strip = [decoders.Strip(" ", 1, 0)] if trim else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    return _wrapped(tokenizer, SPMStreamingDetokenizer if trim else partial(SPMStreamingDetokenizer, trim_space=False))


def _other() -> TokenizerWrapper:
    """A decoder that is neither: continuation pieces are marked, spaces are put between words."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    return _wrapped(tokenizer, NaiveStreamingDetokenizer)


TOKENIZERS = {
    "byte level": tokenizer_of("demo"),
    "sentencepiece": _sentencepiece(trim=True),
    "sentencepiece without trimming": _sentencepiece(trim=False),
    "other": _other(),
}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def pieces_of(tokenizer: TokenizerWrapper, tokens: list[int]) -> list[str]:
    detokenizer = TokenTexts(tokenizer).new_detokenizer()
    return [*(detokenizer.add(token) for token in tokens), detokenizer.flush()]


@each_tokenizer
@given(text=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(SENTENCES), max_size=6).map(" ".join)))
@settings(max_examples=60, deadline=None)
def test_the_pieces_of_a_text_are_what_the_tokenizer_decodes(tokenizer: TokenizerWrapper, text: str) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


@each_tokenizer
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_tokens_make_some_text_and_never_fail(tokenizer: TokenizerWrapper, data: Any) -> None:
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) + 10), max_size=40))
    detokenizer = TokenTexts(tokenizer).new_detokenizer()
    shown = "".join([*(detokenizer.add(token) for token in tokens), detokenizer.flush()])
    assert isinstance(shown, str)


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_character_of_several_tokens_appears_whole(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    pieces = pieces_of(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", ["byte level", "sentencepiece", "sentencepiece without trimming"])
@pytest.mark.parametrize("text", ["naïve 👋🏽 café", "你好 x"])
def test_the_bytes_of_tokens_are_those_of_their_text_also_inside_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    texts, tokens = TokenTexts(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) > len(text.split())
    assert b"".join(texts.bytes_of(token) for token in tokens).decode().removeprefix(" ") == text


def test_a_token_of_no_fixed_bytes_has_those_of_what_it_decodes_to() -> None:
    tokenizer = TOKENIZERS["other"]
    (token,) = tokenizer.encode("Hello", add_special_tokens=False)
    assert TokenTexts(tokenizer).bytes_of(token) == b"Hello"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_that_is_cut_inside_a_character_ends_before_it(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode("go 👋", add_special_tokens=False)
    if len(tokenizer.encode("👋", add_special_tokens=False)) < 2:
        pytest.skip("one token there")
    assert "".join(pieces_of(tokenizer, tokens[:-1])).rstrip() == "go"


def test_a_byte_level_vocabulary_spells_all_256_bytes() -> None:
    own = BPEStreamingDetokenizer(tokenizer_of("demo"))
    table = byte_level_table(own.tokenmap)
    assert {entry for entry in table if len(entry) == 1} >= {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize("name", ["byte level", "sentencepiece without trimming"])
@given(text=st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=5).map("\n".join))
@settings(max_examples=30, deadline=None)
def test_the_text_is_that_of_mlx_lms_own_detokenizer(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer.encode(text, add_special_tokens=False)
    theirs = tokenizer.detokenizer
    for token in tokens:
        theirs.add_token(token)
    theirs.finalize()
    assert "".join(pieces_of(tokenizer, tokens)) == theirs.text
