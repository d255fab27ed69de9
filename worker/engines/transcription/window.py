"""The text of one window of thirty seconds, token by token.

After https://github.com/openai/whisper: greedy first; a text that repeats itself, or of which the model is not sure, is
made again, warmer each time, by chance.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from worker.device.turns import Turn
from worker.engines.transcription.rules import Logits, rule
from worker.engines.transcription.tokens import Tokens
from worker.engines.transcription.whisper import Whisper

_TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_TOO_REPETITIVE: Final = 2.4  # of the text's length to its compressed length
_TOO_UNSURE: Final = -1.0  # mean logarithm of a token's probability
_SILENCE: Final = 0.6  # probability
_AT_ONCE: Final = 16  # tokens of a turn on the device


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was made of a window: `said` has words and marks of time, without the end."""

    said: tuple[int, ...]
    temperature: float
    mean_logprob: float
    compression_ratio: float
    silence_probability: float

    @property
    def is_silence(self) -> bool:
        return self.silence_probability > _SILENCE and self.mean_logprob < _TOO_UNSURE

    @property
    def is_poor(self) -> bool:
        if self.is_silence:
            return False
        return self.compression_ratio > _TOO_REPETITIVE or self.mean_logprob < _TOO_UNSURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """`turn` makes a block of work the device's only one; `check` is called before each and may raise."""

    model: Whisper
    tokens: Tokens
    context: int  # tokens that the model sees at once
    turn: Turn
    check: Callable[[], None]

    def hear(self, mel: mx.array) -> mx.array:
        with self.turn():
            sound = self.model.hear(mel)
            mx.eval(sound)
        return sound

    def language(self, sound: mx.array) -> str:
        """The likeliest one."""
        logits = self._logits([self.tokens.start], sound)
        return max(self.tokens.languages, key=lambda code: logits[self.tokens.languages[code]])

    def read(self, sound: mx.array, prompt: Sequence[int], *, temperature: float | None, seed: int) -> Reading:
        """`prompt` is all that stands before the text. A temperature that was asked for is the only one."""
        chance = np.random.default_rng(seed)
        for warmth in _TEMPERATURES if temperature is None else (temperature,):
            reading = self._read(sound, prompt, warmth, chance)
            if not reading.is_poor:
                break
        return reading

    def _logits(self, prompt: Sequence[int], sound: mx.array) -> Logits:
        self.check()
        with self.turn():
            return _values(self.model.read(mx.array(list(prompt)), sound)[0])

    def _read(self, sound: mx.array, prompt: Sequence[int], warmth: float, chance: np.random.Generator) -> Reading:
        said: list[int] = []
        logprobs: list[float] = []
        silence, cache = 0.0, None
        fed, most = list(prompt), min(self.context - len(prompt), self.context // 2)
        while len(said) < most:
            self.check()
            with self.turn():
                for _ in range(min(_AT_ONCE, most - len(said))):
                    rows, cache = self.model.read(mx.array(fed), sound, cache)
                    if not said:
                        silence = self._silence(rows, prompt)
                    logits = rule(_values(rows), said, self.tokens)
                    token, logprob = _draw(logits, warmth, chance)
                    logprobs.append(logprob)
                    if token == self.tokens.end:
                        return self._reading(said, logprobs, warmth, silence)
                    said.append(token)
                    fed = [token]
        return self._reading(said, logprobs, warmth, silence)

    def _silence(self, rows: mx.array, prompt: Sequence[int]) -> float:
        """How likely it is that nobody speaks: said where the transcript is to begin."""
        if self.tokens.silence < 0:
            return 0.0
        row = rows[list(prompt).index(self.tokens.start)].astype(mx.float32)
        return float(np.array(mx.softmax(row))[self.tokens.silence])

    def _reading(self, said: list[int], logprobs: list[float], warmth: float, silence: float) -> Reading:
        return Reading(
            said=tuple(said),
            temperature=warmth,
            mean_logprob=sum(logprobs) / max(1, len(logprobs)),
            compression_ratio=_compression(self.tokens.text(said)),
            silence_probability=silence,
        )


def _values(rows: mx.array) -> Logits:
    """Of the last of them."""
    return np.array(rows[-1].astype(mx.float32))


def _draw(logits: Logits, warmth: float, chance: np.random.Generator) -> tuple[int, float]:
    """A token, and the logarithm of its probability."""
    shifted = logits - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    warm = logprobs if warmth <= 0.0 else logprobs / warmth + chance.gumbel(size=len(logits))
    token = int(warm.argmax())
    return token, float(logprobs[token])


def _compression(text: str) -> float:
    raw = text.encode("utf-8", "replace")
    return len(raw) / len(zlib.compress(raw))
