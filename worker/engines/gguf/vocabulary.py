"""The vocabulary of a GGUF file: what each token is, in text and in bytes.

The keys are `tokenizer.ggml.*`; types of tokens are llama.cpp's: 1 normal, 2 unknown, 3 control, 4 user defined, 5
unused, 6 byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shared.errors import ModelUnavailableError
from worker.engines.tokens.detokenize import ByteTable, byte_level_table

T = TypeVar("T")

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_SPACE = "\u2581"
_BYTE_NAME = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_BYTE_LEVEL = "gpt2"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is spelled in a text as it is, in the words of the tokenizers that `worker.prompt` knows."""

    content: str
    special: bool
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """`model` is how texts are cut: "gpt2" is byte-level BPE, any other writes a space as `▁`. `merges` are BPE's."""

    model: str
    tokens: list[str]
    added: dict[int, AddedToken]
    ends: frozenset[int]
    bos: int | None
    eos: int | None
    merges: list[str] = field(default_factory=list)
    table: ByteTable

    @classmethod
    def of(cls, values: dict[str, Any]) -> Vocabulary:
        """Raises `ModelUnavailableError` for a file without one."""
        tokens = _list(values, "tokens", str)
        if not tokens:
            raise ModelUnavailableError("the GGUF file holds no vocabulary: it is no model that writes text")
        kinds = _list(values, "token_type", int) or [_NORMAL] * len(tokens)
        model = str(values.get("tokenizer.ggml.model", ""))
        added = {
            index: AddedToken(tokens[index], special=kind == _CONTROL)
            for index, kind in enumerate(kinds)
            if kind in (_CONTROL, _USER_DEFINED) and index < len(tokens)
        }
        eos = _index(values, "eos_token_id")
        return cls(
            model=model,
            tokens=tokens,
            added=added,
            ends=frozenset(end for name in _ENDS if (end := _index(values, name)) is not None),
            bos=_index(values, "bos_token_id"),
            eos=eos,
            merges=_list(values, "merges", str),
            table=_table(model, tokens, kinds, added, trims=bool(values.get("tokenizer.ggml.add_space_prefix", True))),
        )

    @property
    def is_byte_level(self) -> bool:
        return self.model == _BYTE_LEVEL

    def text_of(self, index: int | None) -> str:
        return "" if index is None or not 0 <= index < len(self.tokens) else self.tokens[index]


def _list(values: dict[str, Any], name: str, kind: type[T]) -> list[T]:
    """Empty for none. Raises `ModelUnavailableError` for what is no list of these."""
    found = values.get(f"tokenizer.ggml.{name}") or []
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise ModelUnavailableError(f"the GGUF file is damaged: its vocabulary's {name} cannot be read")
    return found


def _index(values: dict[str, Any], name: str) -> int | None:
    value = values.get(f"tokenizer.ggml.{name}")
    return int(value) if isinstance(value, int) and 0 <= value < 1 << 31 else None


def _table(model: str, tokens: list[str], kinds: list[int], added: dict[int, AddedToken], *, trims: bool) -> ByteTable:
    pieces = ["" if kind == _UNUSED else token for token, kind in zip(tokens, kinds, strict=False)]
    if model == _BYTE_LEVEL:
        normal = byte_level_table(None if index in added else piece for index, piece in enumerate(pieces))
        return ByteTable([added[i].content.encode() if i in added else piece for i, piece in enumerate(normal)])
    return ByteTable([_piece(piece, kind) for piece, kind in zip(pieces, kinds, strict=False)], trims)


def _piece(piece: str, kind: int) -> bytes:
    byte = _BYTE_NAME.match(piece) if kind == _BYTE else None
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()
