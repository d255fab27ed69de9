"""When each word was said, by where its tokens look in the sound.

After https://github.com/openai/whisper (`timing.py`): some heads of the decoder follow the sound from token to token;
the path through what they look at, found by dynamic time warping, says when each token begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from shared.events import Word
from worker.engines.transcription.tokens import MARKS_PER_S, Tokens
from worker.engines.transcription.whisper import Whisper

_FILTER: Final = 7  # frames of the median
_UNSPACED: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages that write no spaces
_OPENING: Final = "\"'“¿([{-"
_CLOSING: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - signs of other scripts
Floats = NDArray[np.float32]


def word_times(
    model: Whisper,
    tokens: Tokens,
    heads: Sequence[tuple[int, int]],
    sound: mx.array,
    *,
    opening: Sequence[int],
    ids: Sequence[int],
    frames: int,
    language: str,
) -> list[tuple[Word, int]]:
    """Each word, timed from the window's beginning, and its tokens' number. `ids` are the words' tokens, `frames` those
    of the encoder in which there is sound. On the device's thread, in its turn."""
    if not ids:
        return []
    looks: list[mx.array] = []
    model.read(mx.array([*opening, tokens.untimed, *ids, tokens.end]), sound, looks=looks)
    chosen = mx.stack([looks[layer][0, head, :, :frames] for layer, head in heads]).astype(mx.float32)
    starts = _times(np.array(mx.softmax(chosen, axis=-1)), len(opening))
    words = _words(tokens, ids, is_spaced=language not in _UNSPACED)
    found, place = [], 0
    for text, count in words:
        found.append((Word(text=text, start_s=starts[place], end_s=starts[place + count]), count))
        place += count
    return found


def _times(looks: Floats, before: int) -> list[float]:
    """(heads, tokens, frames) -> seconds at which each token behind the opening's next begins. What foretells a token
    looks where that one was said, so that each is timed by the one before it."""
    scaled = (looks - looks.mean(axis=-2, keepdims=True)) / (looks.std(axis=-2, keepdims=True) + 1e-9)
    seen = _median(scaled).mean(axis=0)[before:-1]
    rows, columns = _warped(-seen.astype(np.float64))
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    return [float(columns[place]) / MARKS_PER_S for place in begins]


def _median(looks: Floats) -> Floats:
    half = _FILTER // 2
    if looks.shape[-1] <= half:
        return looks
    padded = np.pad(looks, ((0, 0), (0, 0), (half, half)), mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, _FILTER, axis=-1), axis=-1).astype(np.float32)


def _warped(cost: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cheapest path from the first token and frame to the last: rows and columns, forwards."""
    height, width = cost.shape
    total = np.full((height + 1, width + 1), np.inf)
    total[0, 0] = 0.0
    for row in range(1, height + 1):
        best = np.minimum(total[row - 1, :-1], total[row - 1, 1:])
        left = total[row, 0]
        for column, (other, price) in enumerate(zip(best.tolist(), cost[row - 1].tolist(), strict=True), 1):
            left = min(other, left) + price
            total[row, column] = left
    return _traced(total, height, width)


def _traced(total: NDArray[np.float64], row: int, column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    path = []
    while row > 0 and column > 0:
        path.append((row - 1, column - 1))
        steps = (total[row - 1, column - 1], total[row - 1, column], total[row, column - 1])
        way = int(np.argmin(steps))
        row, column = row - (way != 2), column - (way != 1)
    found = np.array(path[::-1], dtype=np.int64)
    return found[:, 0], found[:, 1]


def _words(tokens: Tokens, ids: Sequence[int], *, is_spaced: bool) -> list[tuple[str, int]]:
    """Texts with their tokens' number: whole characters, joined to words, with the signs that belong to them."""
    words: list[tuple[str, int]] = []
    for text, count in _characters(tokens, ids):
        is_sign = bool(text.strip()) and all(sign in _CLOSING for sign in text.strip())
        begins = text.startswith(" ") if is_spaced else not is_sign
        follows_opening = bool(words) and words[-1][0].strip() in tuple(_OPENING)
        if words and (not begins or follows_opening or (is_sign and not text.startswith(" "))):
            words[-1] = (words[-1][0] + text, words[-1][1] + count)
        else:
            words.append((text, count))
    return words


def _characters(tokens: Tokens, ids: Sequence[int]) -> list[tuple[str, int]]:
    """A character may take several tokens."""
    found: list[tuple[str, int]] = []
    begin = 0
    for end in range(1, len(ids) + 1):
        text = tokens.text(ids[begin:end])
        if "\ufffd" not in text or end == len(ids):
            found.append((text, end - begin))
            begin = end
    return found
