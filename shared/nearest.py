"""What a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

_CLOSE: Final = 0.6  # of difflib's ratio: one or two letters of a word
_LONGEST: Final = 100  # letters of a word that could be a misspelt one


def meant(word: str, known: Collection[str]) -> str:
    """`: did you mean …?` with the nearest of the known words; empty where none is near."""
    close = difflib.get_close_matches(word[:_LONGEST], sorted(known), n=1, cutoff=_CLOSE)
    return f": did you mean {close[0]}?" if close else ""
