"""How a model's reasoning is closed from outside, in its own tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.formats import harmony
from worker.formats.reasoning import Reasoning

# The channels on which an answer goes on after reasoning: what is called for begins on one, what is said on the other.
_CHANNELS = ("commentary", "final")


@dataclass(frozen=True, slots=True)
class Closing:
    """How reasoning is closed: of each step's tokens one must come. `barred` would begin it again."""

    steps: tuple[tuple[int, ...], ...]
    barred: tuple[int, ...] = ()


def find_closing(tokenizer: Any, reasoning: Reasoning | None, *, is_harmony: bool) -> Closing | None:
    """None where the end of its reasoning cannot be spelled, or it has none."""
    if is_harmony:
        return _harmony(tokenizer)
    if reasoning is None:
        return None
    tokens = _spelled(tokenizer, reasoning.frame + reasoning.closing)
    if not tokens or reasoning.end not in tokenizer.decode(tokens):
        return None
    start = tokenizer.get_vocab().get(reasoning.start)
    return Closing(tuple((token,) for token in tokens), () if start is None else (int(start),))


def _harmony(tokenizer: Any) -> Closing | None:
    """The model chooses between the channels."""
    tokens = _spelled(tokenizer, f"{harmony.NEXT}{harmony.CHANNEL}")
    channels = [_spelled(tokenizer, name)[:1] for name in _CHANNELS]
    if not tokens or not all(channels):
        return None
    return Closing((*((token,) for token in tokens), tuple(token for ids in channels for token in ids)))


def _spelled(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
