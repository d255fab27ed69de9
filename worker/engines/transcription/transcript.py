"""A whole recording, window after window, each beginning where the last one's text ended.

After https://github.com/openai/whisper (`transcribe.py`): a window's text has marks of time; where it ends in the midst
of a sentence, the next window begins with that sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from shared.events import Segment, Word
from worker.engines.transcription.mel import SAMPLES_PER_S, WINDOW_S, WINDOW_SAMPLES, log_mel
from worker.engines.transcription.tokens import MARKS_PER_S, Tokens
from worker.engines.transcription.window import Reader, Reading
from worker.engines.transcription.words import word_times

Samples = NDArray[np.int16]
_LEAST_ADVANCE_S: Final = 1.0  # a model that marks no time would read the same window for ever
_TOO_WARM: Final = 0.5  # what was made by chance does not lead on


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`language` is a code of the model's. `heads` follow the sound; none: words have no times."""

    language: str
    task: str
    prompt: str
    temperature: float | None
    bands: int
    heads: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Of a window, from its beginning on."""

    start_s: float
    end_s: float
    ids: tuple[int, ...]


def language_of(reader: Reader, samples: Samples, bands: int) -> str:
    """As the recording begins; empty where the model knows one alone."""
    if not reader.tokens.languages:
        return ""
    return reader.language(reader.hear(_mel(samples[:WINDOW_SAMPLES], bands)))


def segments(reader: Reader, samples: Samples, asked: Asked) -> Iterator[Segment]:
    """Raises what the reader's `check` raises."""
    tokens = reader.tokens
    said: list[int] = tokens.ids(" " + asked.prompt.strip()) if asked.prompt.strip() else []
    opening, place = tokens.opening(asked.language, asked.task), 0
    while place < len(samples):
        window = samples[place : place + WINDOW_SAMPLES]
        sound = reader.hear(_mel(window, asked.bands))
        prompt = [*_leading(reader, said), *opening]
        reading = reader.read(sound, prompt, temperature=asked.temperature, seed=place)
        start_s, length_s = place / SAMPLES_PER_S, len(window) / SAMPLES_PER_S
        pieces, advance_s = _cut(reading.said, tokens, length_s)
        if not reading.is_silence:
            for segment in _told(reader, sound, pieces, reading, asked, length_s):
                yield _moved(segment, start_s)
            said = [] if reading.temperature > _TOO_WARM else said
            said += [number for number in reading.said if number < tokens.end]
        place += max(1, round(max(_LEAST_ADVANCE_S, advance_s) * SAMPLES_PER_S))


def _mel(samples: Samples, bands: int) -> mx.array:
    return mx.array(log_mel(samples, bands))


def _leading(reader: Reader, said: Sequence[int]) -> list[int]:
    """What was said before, as much of it as half of what the model sees has room for."""
    most = reader.context // 2 - 1
    return [reader.tokens.before, *said[-most:]] if said else []


def _cut(said: Sequence[int], tokens: Tokens, length_s: float) -> tuple[list[_Piece], float]:
    """The window's pieces, and how far from its beginning the next window begins. Where two marks of time meet, one
    piece ends and the next begins; what follows the last such place is said in the next window, unless a mark ends
    it."""
    first = tokens.first_time
    marks = [number >= first for number in said]
    ends = [at for at in range(1, len(said)) if marks[at - 1] and marks[at]]
    has_single_end = len(said) > 1 and marks[-1] and not marks[-2]
    if not ends:
        last = max((number for number in said if number > first), default=None)
        end_s = length_s if last is None else (last - first) / MARKS_PER_S
        return _pieces([tuple(said)], tokens, end_s), length_s
    if has_single_end:
        ends = [*ends, len(said)]
    rows = [tuple(said[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    advance_s = length_s if has_single_end else (said[ends[-1] - 1] - first) / MARKS_PER_S
    return _pieces(rows, tokens, length_s), advance_s


def _pieces(rows: Sequence[tuple[int, ...]], tokens: Tokens, end_s: float) -> list[_Piece]:
    first, found = tokens.first_time, []
    for row in rows:
        marks = [(number - first) / MARKS_PER_S for number in row if number >= first]
        ids = tuple(number for number in row if number < tokens.end)
        if tokens.text(ids).strip():
            start_s = marks[0] if marks else 0.0
            found.append(_Piece(start_s=start_s, end_s=marks[-1] if len(marks) > 1 else end_s, ids=ids))
    return found


def _told(
    reader: Reader, sound: mx.array, pieces: Sequence[_Piece], reading: Reading, asked: Asked, length_s: float
) -> Iterator[Segment]:
    words = iter(_words(reader, sound, [number for piece in pieces for number in piece.ids], asked, length_s))
    for piece in pieces:
        yield Segment(
            start_s=min(piece.start_s, length_s),
            end_s=min(piece.end_s, length_s),
            text=reader.tokens.text(piece.ids),
            token_ids=piece.ids,
            words=_of_piece(words, len(piece.ids)) if asked.heads else (),
            temperature=reading.temperature,
            mean_logprob=reading.mean_logprob,
            compression_ratio=reading.compression_ratio,
            silence_probability=reading.silence_probability,
        )


def _words(
    reader: Reader, sound: mx.array, ids: Sequence[int], asked: Asked, length_s: float
) -> list[tuple[Word, int]]:
    if not asked.heads:
        return []
    reader.check()
    with reader.turn():
        return word_times(
            reader.model,
            reader.tokens,
            asked.heads,
            sound,
            opening=reader.tokens.opening(asked.language, asked.task),
            ids=ids,
            frames=min(WINDOW_S * MARKS_PER_S, max(1, round(length_s * MARKS_PER_S))),
            language=asked.language,
        )


def _of_piece(words: Iterator[tuple[Word, int]], count: int) -> tuple[Word, ...]:
    """The next words, of so many tokens."""
    found: list[Word] = []
    while count > 0 and (following := next(words, None)) is not None:
        found.append(following[0])
        count -= following[1]
    return tuple(found)


def _moved(segment: Segment, by_s: float) -> Segment:
    words = tuple(
        replace(word, start_s=round(word.start_s + by_s, 2), end_s=round(word.end_s + by_s, 2))
        for word in segment.words
    )
    return replace(segment, start_s=round(segment.start_s + by_s, 2), end_s=round(segment.end_s + by_s, 2), words=words)
