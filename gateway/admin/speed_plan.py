"""What a speed test asks of a model, what that costs, and what came of it: pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

PREFILL_TOKENS: Final = (256, 1024, 4096, 8192)
STREAMS: Final = (1, 2, 4)
ANSWER_TOKENS: Final = 64
SHORT_TOKENS: Final = 32  # of the prompts whose answers are timed
_WORDS: Final = (
    *("able", "back", "case", "down", "each", "fact", "give", "hand", "idea", "just"),
    *("keep", "line", "made", "name", "once", "part", "read", "same", "take", "used"),
)

Kind = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Step:
    """`size` is tokens of a prompt for `prefill`, answers at once for `decode`."""

    kind: Kind
    size: int

    @property
    def requests(self) -> int:
        return 1 if self.kind == "prefill" else self.size

    @property
    def prompt_tokens(self) -> int:
        return self.size if self.kind == "prefill" else self.size * SHORT_TOKENS

    @property
    def answer_tokens(self) -> int:
        """The most of each answer."""
        return 1 if self.kind == "prefill" else ANSWER_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """About; `seconds` is 0 where the model's speed is not known yet."""

    requests: int
    prompt_tokens: int
    answer_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One answer: seconds from the question to its first and its last token; None where it had none. `prompt_tokens`
    are those that were computed."""

    first_s: float | None
    last_s: float | None
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Of a curve: `at` are prompt tokens, or answers at once; `first_s` seconds to the first token, `tokens_per_s` of
    what the curve is about; `is_beside` where other requests ran at the same gateway."""

    at: int
    first_s: float
    tokens_per_s: float
    is_beside: bool


def plan(context_tokens: int, capacity: int) -> tuple[Step, ...]:
    """No prompt takes more than half of the window, nor more answers run at once than a model's workers take."""
    lengths = [each for each in PREFILL_TOKENS if not context_tokens or 2 * each <= context_tokens]
    streams = [each for each in STREAMS if each <= max(1, capacity)]
    return (*(Step("prefill", each) for each in lengths), *(Step("decode", each) for each in streams))


def cost(steps: Sequence[Step], prefill_tokens_per_s: float, decode_tokens_per_s: float) -> Cost:
    reading = sum(each.prompt_tokens for each in steps)
    writing = sum(each.requests * each.answer_tokens for each in steps)
    is_known = prefill_tokens_per_s > 0 and decode_tokens_per_s > 0
    return Cost(
        requests=sum(each.requests for each in steps),
        prompt_tokens=reading,
        answer_tokens=writing,
        seconds=reading / prefill_tokens_per_s + writing / decode_tokens_per_s if is_known else 0.0,
    )


def prompt(tokens: int, chance: random.Random) -> str:
    """About so many tokens, which begin as no other prompt does: nothing of it is in a cache."""
    return " ".join(chance.choices(_WORDS, k=tokens))


def point(step: Step, answers: Sequence[Timed], *, is_beside: bool) -> Point | None:
    """None where too little was said for a rate."""
    told = [each for each in answers if each.first_s is not None and each.last_s is not None]
    if len(told) < len(answers) or not told:
        return None
    first_s, last_s = min(each.first_s or 0.0 for each in told), max(each.last_s or 0.0 for each in told)
    if step.kind == "prefill":
        tokens, took_s, at = told[0].prompt_tokens, first_s, told[0].prompt_tokens
    else:
        tokens, took_s, at = sum(each.answer_tokens - 1 for each in told), last_s - first_s, step.size
    if tokens <= 0 or took_s <= 0:
        return None
    return Point(at=at, first_s=round(first_s, 4), tokens_per_s=round(tokens / took_s, 2), is_beside=is_beside)
