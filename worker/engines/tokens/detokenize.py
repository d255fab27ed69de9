"""Tokens to text, one token at a time: a character appears once it is whole, never half.

mlx-lm classifies the tokenizer (byte-level BPE, SentencePiece with byte fallback, anything else). For the first two a
token is a fixed run of bytes, so an incremental UTF-8 decoder over a table made once gives each token's text in
constant time. Anything else is decoded in a short sliding window.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_SPM_SPACE = "\u2581".encode()
_REPLACEMENT = "\ufffd"
# A window is cut once it is this long and ends on a whole character.
_WINDOW_TOKENS = 8


class Tokenizer(Protocol):
    """The parts of mlx-lm's tokenizer wrapper that detokenising needs; see `ByteTable` for others."""

    detokenizer: Any

    def decode(self, tokens: Sequence[int]) -> str: ...


class Detokenizer(Protocol):
    def add(self, token: int) -> str:
        """Text that this token completes; may be empty."""

    def flush(self) -> str:
        """What is left at the end; a character that never became whole is not."""


@dataclass(frozen=True, slots=True)
class ByteTable:
    """A vocabulary whose tokens are fixed bytes, by id. `trims` drops the one space that SentencePiece puts before the
    first word. A tokenizer that is not mlx-lm's gives it as its `detokenizer`."""

    pieces: Sequence[bytes]
    trims: bool = False


def find_table(tokenizer: Tokenizer) -> ByteTable | None:
    """The table that the tokenizer gives, or that mlx-lm's detokenizer knows; None where tokens are no fixed bytes."""
    stream = tokenizer.detokenizer
    return stream if isinstance(stream, ByteTable) else _table_of_mlx_lm(stream)


def _table_of_mlx_lm(stream: Any) -> ByteTable | None:
    # Only here, because engines without mlx-lm have tables of their own.
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer

    if isinstance(stream, BPEStreamingDetokenizer):
        return ByteTable(byte_level_table(stream.tokenmap))
    if isinstance(stream, SPMStreamingDetokenizer):
        return ByteTable([piece.replace(_SPM_SPACE, b" ") for piece in stream.tokenmap], bool(stream.trim_space))
    return None


class TokenTexts:
    """What the tokens of one vocabulary are made of. Build it once per model, because the byte table costs a pass over
    the vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        table = find_table(tokenizer)
        self._trims = table is not None and table.trims
        self._table = None if table is None else table.pieces

    def new_detokenizer(self) -> Detokenizer:
        """For one answer."""
        if self._table is None:
            return WindowDetokenizer(self._tokenizer)
        return ByteDetokenizer(self._table, trim_space=self._trims)

    def bytes_of(self, token: int) -> bytes:
        """The token's part of a text, which may begin or end inside a character; where tokens are no fixed bytes, what
        it decodes to alone."""
        if self._table is None:
            return self._tokenizer.decode([token]).encode()
        return self._table[token] if token < len(self._table) else b""


def byte_level_table(pieces: Iterable[str | None]) -> list[bytes]:
    """Bytes of each piece of a byte-level vocabulary, in which GPT-2's alphabet writes every byte as one printable
    character: printable Latin-1 as itself, the other 68 bytes as U+0100 onwards in order. Added tokens are plain
    text and may hold other characters, which stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    alphabet |= {chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)}
    return [b"".join(alphabet.get(c) or c.encode() for c in piece or "") for piece in pieces]


class ByteDetokenizer:
    """For vocabularies whose tokens are fixed bytes. `trim_space` drops the one space that SentencePiece puts
    before the first word."""

    __slots__ = ("_decode", "_table", "_trim")

    def __init__(self, table: Sequence[bytes], *, trim_space: bool = False) -> None:
        self._table = table
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._trim = trim_space

    def add(self, token: int) -> str:
        # Vocabularies are padded to round sizes: an id beyond the table has no text.
        text = self._decode(self._table[token]) if token < len(self._table) else ""
        if self._trim and text:
            self._trim = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        self._decode(b"", True)
        return ""


class WindowDetokenizer:
    """For any other tokenizer: the text a token adds is the difference between two decodings of a window that
    starts a few tokens earlier, because a decoder may treat a piece differently at the start of a text."""

    __slots__ = ("_shown", "_tokenizer", "_window")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._shown = ""

    def add(self, token: int) -> str:
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        # An unfinished character decodes to replacements; a decoder that tidies spaces may still take one back.
        safe = text.rstrip(_REPLACEMENT).rstrip(" ")
        if not safe.startswith(self._shown):
            return ""
        new = safe[len(self._shown) :]
        self._shown = safe
        if new and len(self._window) >= _WINDOW_TOKENS and safe == text:
            self._window = self._window[-_WINDOW_TOKENS // 2 :]
            self._shown = self._tokenizer.decode(self._window)
        return new

    def flush(self) -> str:
        text = self._tokenizer.decode(self._window)
        rest = text[len(self._shown) :].rstrip(_REPLACEMENT) if text.startswith(self._shown) else ""
        self._window, self._shown = [], ""
        return rest
