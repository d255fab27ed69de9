"""What a transcript may go on with: marks of time stand in pairs, never run back, and nobody says signs.

After https://github.com/openai/whisper (`decoding.py`), whose models were trained on texts of this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.engines.transcription.tokens import MARKS_PER_S, Tokens

_FIRST_WITHIN: Final = 1 * MARKS_PER_S  # a transcript begins within a second
Logits = NDArray[np.float32]


def rule(logits: Logits, said: Sequence[int], tokens: Tokens) -> Logits:
    """(vocabulary,) -> the same without what may not follow what was said in this window."""
    ruled = logits.copy()
    ruled[list(tokens.unsaid)] = -np.inf
    ruled[tokens.untimed] = -np.inf
    first = tokens.first_time
    if not said:
        ruled[list(tokens.blanks)] = -np.inf
        ruled[:first] = -np.inf
        ruled[first + _FIRST_WITHIN + 1 :] = -np.inf
        return ruled
    _pair(ruled, said, tokens)
    if _is_time(ruled, first):
        ruled[:first] = -np.inf
    return ruled


def _pair(ruled: Logits, said: Sequence[int], tokens: Tokens) -> None:
    first = tokens.first_time
    is_time = said[-1] >= first
    closes = is_time and (len(said) < 2 or said[-2] >= first)
    if closes:
        ruled[first:] = -np.inf  # a pair, or the opening mark: words follow
    elif is_time:
        ruled[: tokens.end] = -np.inf  # a segment is over: the next begins, or nothing follows
    marks = [number for number in said if number >= first]
    if marks:
        last = marks[-1] if is_time and not closes else marks[-1] + 1
        ruled[first:last] = -np.inf


def _is_time(ruled: Logits, first: int) -> bool:
    """Whether any mark of time is likelier than each single word."""
    times, words = ruled[first:], ruled[:first]
    most = times.max(initial=-np.inf)
    if not np.isfinite(most):
        return False
    return bool(most + np.log(np.exp(times - most).sum()) > words.max(initial=-np.inf))
