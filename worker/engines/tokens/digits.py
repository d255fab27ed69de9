"""Numbers that come to an end: JSON's may have any number of digits, and a weak model writes them for minutes.

A grammar alone cannot bound them without also forbidding exponents or rounding what it bounds, so the digits of an
answer under a grammar are counted as they come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The longest that a double or a 64-bit integer can be written: -2.2250738585072014e-308.
MOST_DIGITS = 24

_OF_NUMBERS = frozenset(b"0123456789.eE+-")
_OF_WORDS = frozenset(b"\"'_abcdfghijklmnopqrstuvwxyzABCDFGHIJKLMNOPQRSTUVWXYZ")


class Digits:
    """What the tokens of a vocabulary are made of. Shared by the answers of a model."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """`tokens` are the texts of all tokens, by id."""
        self._tokens = tokens
        self.begins_number = _begin_with(_OF_NUMBERS, tokens)
        self.begins_word = _begin_with(_OF_WORDS, tokens)
        self.is_zeros = np.fromiter((bool(text) and not text.strip(b"0") for text in tokens), np.bool_, len(tokens))

    def run(self) -> DigitRun:
        return DigitRun(self)

    def trailing(self, token: int) -> tuple[int, bool]:
        """(how many characters of numbers the token ends with, whether it is made of nothing else)."""
        text = self._tokens[token] if token < len(self._tokens) else b""
        count = 0
        while count < len(text) and text[-1 - count] in _OF_NUMBERS:
            count += 1
        return count, count == len(text)


class DigitRun:
    """How long the number is in the middle of which one answer may be."""

    def __init__(self, digits: Digits) -> None:
        self._digits = digits
        self._length = 0

    def add(self, token: int) -> None:
        count, is_whole = self._digits.trailing(token)
        self._length = self._length + count if is_whole else count

    def bounded(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The tokens that may come next, of shape (vocabulary,), without those that prolong a number which is long
        enough; one that cannot end yet, since it must be more than its zeros, gets no more of them. Inside a string,
        where words may come as well, and where nothing else may come, all stay."""
        digits = self._digits
        if self._length < MOST_DIGITS or _among(allowed, digits.begins_word).any():
            return allowed
        for prolonging in (digits.begins_number, digits.is_zeros):
            left = allowed & ~_among(allowed, prolonging)
            if left.any():
                return left
        return allowed


def _among(allowed: NDArray[np.bool_], kind: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of a kind, where a model's logits may be wider or narrower than its vocabulary."""
    found = np.zeros_like(allowed)
    known = min(len(allowed), len(kind))
    found[:known] = allowed[:known] & kind[:known]
    return found


def _begin_with(characters: frozenset[int], tokens: Sequence[bytes]) -> NDArray[np.bool_]:
    begins = (bool(text) and text[0] in characters for text in tokens)
    return np.fromiter(begins, np.bool_, len(tokens))
