"""Text to tokens, piece by piece: the same ids as encoding the whole, without encoding the same text twice.

A tokenizer cuts its input at added tokens (`<|im_start|>` and the like) before anything else, so the text between two
of them can be encoded alone and remembered. Whether that holds for a tokenizer is tried once, when it is loaded.
"""

from __future__ import annotations

import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import tokenizers

from worker.prompt.sequences import common_length

# Noncharacters of Unicode, which no text that is exchanged holds. The first is set inside text that must not become a
# control token although it spells one (see `Shield`); the others stand for texts while a template is tried.
MARK, STAND_IN_ANSWER, STAND_IN_USER, STAND_IN_OTHER = _OWN = "\ufdd0\ufdd1\ufdd2\ufdd3"
_WITHOUT_OWN = str.maketrans("", "", _OWN)

_MEMO_BYTES = 32 * 1024 * 1024
_SAMPLES = ("Hello, world", " two  spaces", "\n\nline\n", "naïve 你好 👋", '{"a": 1}', "x", "\n", " ")


class Tokenizer(Protocol):
    """The parts of a Hugging Face tokenizer (through mlx-lm's wrapper) that encoding needs."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]: ...

    def get_vocab(self) -> dict[str, int]: ...


class Shield:
    """Breaks control tokens in text that comes from outside, so that a file which holds `<|im_end|>` is read as those
    ten characters and cannot end a message. Template text and markers keep their meaning."""

    def __init__(self, spellings: Iterable[str]) -> None:
        longest_first = sorted((s for s in spellings if len(s) > 1), key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __call__(self, text: str) -> str:
        if any(char in text for char in _OWN):
            text = text.translate(_WITHOUT_OWN)
        return self._find.sub(lambda match: match[0][0] + MARK + match[0][1:], text)


class Encoder:
    """Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._ids = {str(token.content): index for index, token in added.items()}
        self.special = frozenset(str(token.content) for token in added.values() if token.special)
        self.added = frozenset(self._ids)
        spellings = sorted(self._ids, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, spellings)) + ")") if spellings else None
        self._memo: OrderedDict[str, Sequence[int]] = OrderedDict()
        self._memo_bytes = 0
        self._lock = threading.Lock()
        self._anchor = ""
        self._ids_of = _quick(tokenizer, _SAMPLES) or self._tokenized
        plain = all(
            not (token.normalized or token.lstrip or token.rstrip or token.single_word) for token in added.values()
        )
        self.is_exact = plain and self._choose_anchor()

    def _choose_anchor(self) -> bool:
        """Finds out how a segment is encoded as it would be in the middle of a text. A tokenizer that puts a space
        before the first word is given an added token first, which is then dropped."""
        for anchor in ("", *sorted(self.special), *sorted(self.added)):
            self._anchor = anchor
            if all(self._in_segments(text) == self._whole(text) for text in self._probes()):
                return True
            if not anchor and not self._ids:
                return False
        return False

    def _probes(self) -> list[str]:
        tokens = sorted(self._ids)[:3]
        joined = "".join(f"{token}{sample}" for token in tokens for sample in _SAMPLES)
        return [joined, *(f"{token}{sample}{token}{sample}" for token in tokens for sample in _SAMPLES)]

    def encode(self, text: str) -> list[int]:
        """Token ids of template output; `MARK`s are honoured and removed."""
        if self.is_exact:
            return self._in_segments(text)
        if MARK not in text:
            return self._whole(text)
        return [token for segment in text.split(MARK) for token in self._whole(segment)]

    def raw(self, text: str) -> list[int]:
        """A text that is a prompt as it stands: with what the tokenizer itself puts at a text's beginning or end, and
        control tokens where they are spelled."""
        return self._whole(text, as_text=True)

    @functools.cached_property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def has(self, text: str) -> bool:
        """Whether the text is an added token."""
        return text in self._ids

    def single(self, text: str) -> int | None:
        """The token that is all of `text`, if there is one."""
        tokens = self.encode(text)
        return tokens[0] if len(tokens) == 1 else None

    def shared(self, one: str, other: str) -> list[int]:
        """Tokens with which both texts begin."""
        tokens, others = self.encode(one), self.encode(other)
        return tokens[: common_length(tokens, others)]

    def _whole(self, text: str, *, as_text: bool = False) -> list[int]:
        ids_of = functools.partial(self._tokenized, as_text=True) if as_text else self._ids_of
        try:
            return ids_of(text)
        except TypeError:
            # Half of a surrogate pair, from an escape in a call's arguments: no tokenizer takes it.
            return ids_of(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def _tokenized(self, text: str, *, as_text: bool = False) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=as_text))

    def _in_segments(self, text: str) -> list[int]:
        tokens: list[int] = []
        for index, segment in enumerate(self._split.split(text) if self._split else (text,)):
            if index % 2:
                tokens.append(self._ids[segment])
            elif segment:
                tokens.extend(self._segment(segment))
        return tokens

    def _segment(self, text: str) -> Sequence[int]:
        with self._lock:
            known = self._memo.get(text)
            if known is not None:
                self._memo.move_to_end(text)
                return known
        tokens = self._encode_segment(text)
        with self._lock:
            if text not in self._memo:
                self._memo[text] = tokens
                self._memo_bytes += _size_bytes(text, tokens)
            while self._memo_bytes > _MEMO_BYTES:
                old, old_tokens = self._memo.popitem(last=False)
                self._memo_bytes -= _size_bytes(old, old_tokens)
        return tokens

    def _encode_segment(self, text: str) -> Sequence[int]:
        if MARK in text:
            return [token for part in text.split(MARK) if part for token in self._encode_segment(part)]
        return self._whole(self._anchor + text)[1 if self._anchor else 0 :]


def _quick(tokenizer: Any, samples: Iterable[str]) -> Callable[[str], list[int]] | None:
    """The way to a fast tokenizer's ids past the one that works out where each token stands, which takes half of the
    time; None for a tokenizer that has no such way, or whose own makes something else of the samples."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        return None
    backend.no_truncation()
    backend.no_padding()

    def ids_of(text: str) -> list[int]:
        ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    same = all(ids_of(text) == list(tokenizer.encode(text, add_special_tokens=False)) for text in samples)
    return ids_of if same else None


def _size_bytes(text: str, tokens: Sequence[int]) -> int:
    return 4 * len(text) + 8 * len(tokens) + 200
