"""Which prompt is prefilled next and in how large a piece. Pure decisions; the engine does the work.

Order. A candidate's score is the seconds its uncached tokens will take, plus a handicap for its priority class, less
a share of the seconds it has waited; the lowest score goes first. So short prompts overtake long ones, and waiting
wins in the end against any length and any class.

Size. While streams run, a chunk may take what is left of the stall target after a decode step. When nothing runs, a
chunk is larger, but still short enough that a new arrival or a cancellation is seen soon.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from shared.request import Priority

HANDICAP_S: dict[Priority, float] = {"interactive": 0.0, "subagent": 1.0, "side": 2.0, "batch": 20.0}
AGEING = 0.25  # seconds of work that one second of waiting makes up for
MIN_CHUNK_TOKENS = 32
FIRST_CHUNK_TOKENS = 256  # before anything was measured
GRANULE_TOKENS = 32
MAX_GROWTH = 2.0  # of one chunk over the largest measured so far
IDLE_STALL_FACTOR = 5.0
BUDGET_SHARE = 0.85  # of the stall target: predictions err


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A prompt that could be prefilled now. `depth` tokens of it are done or cached, `uncached_tokens` are not."""

    key: str
    priority: Priority
    depth: int
    uncached_tokens: int
    waited_s: float


class PrefillCost:
    """Predicts the seconds that tokens `start..end` of a prompt take: `n * per_token + n * mean depth * per_depth`.

    Both factors are fitted by least squares over the chunks measured, older ones counting exponentially less.
    """

    def __init__(self, *, per_token_s: float = 1e-3, decay: float = 0.8) -> None:
        self._per_token_s = per_token_s
        self._per_depth_s = 0.0
        self._decay = decay
        self._sums = [0.0] * 5  # n*n, n*m, m*m, n*t, m*t with m = n * mean depth
        self.largest = 0

    @property
    def tokens_per_s(self) -> float:
        """At the start of a prompt; 0 before anything was measured."""
        return 1.0 / self._per_token_s if self.largest else 0.0

    def predict_s(self, start: int, end: int) -> float:
        tokens = end - start
        return tokens * (self._per_token_s + self._per_depth_s * (start + end) / 2)

    def observe(self, start: int, end: int, seconds: float) -> None:
        tokens = end - start
        if tokens < MIN_CHUNK_TOKENS:
            return  # dominated by what a pass costs anyway
        weighted = tokens * (start + end) / 2
        fresh = (tokens * tokens, tokens * weighted, weighted * weighted, tokens * seconds, weighted * seconds)
        self._sums = [old * self._decay + new for old, new in zip(self._sums, fresh, strict=True)]
        self.largest = max(self.largest, tokens)
        self._fit()

    def _fit(self) -> None:
        nn, nm, mm, nt, mt = self._sums
        determinant = nn * mm - nm * nm
        if determinant > 1e-9 * nn * mm:
            per_token = (nt * mm - mt * nm) / determinant
            per_depth = (mt * nn - nt * nm) / determinant
            if per_token > 0 and per_depth >= 0:
                self._per_token_s, self._per_depth_s = per_token, per_depth
                return
        # Too few depths seen to tell the two apart: keep what is known of depth, fit the rest.
        self._per_token_s = max(1e-9, (nt - self._per_depth_s * nm) / nn)

    def fitting_tokens(self, start: int, budget_s: float) -> int:
        """How many tokens from `start` on take `budget_s` seconds."""
        half = self._per_depth_s / 2
        linear = self._per_token_s + self._per_depth_s * start
        if half * budget_s < 1e-12 * linear * linear:
            return int(budget_s / linear)
        return int((math.sqrt(linear * linear + 4 * half * budget_s) - linear) / (2 * half))


def pick(candidates: Iterable[Candidate], cost: PrefillCost) -> Candidate | None:
    """The prompt to go on with."""
    return min(candidates, key=lambda c: (_score(c, cost), c.key), default=None)


def _score(candidate: Candidate, cost: PrefillCost) -> float:
    work_s = cost.predict_s(candidate.depth, candidate.depth + candidate.uncached_tokens)
    return work_s + HANDICAP_S[candidate.priority] - AGEING * candidate.waited_s


def chunk_tokens(
    cost: PrefillCost, *, depth: int, is_decoding: bool, decode_step_s: float, stall_target_s: float, max_tokens: int
) -> int:
    """The size of the next chunk of a prompt of which `depth` tokens are done."""
    if not cost.largest:
        return min(FIRST_CHUNK_TOKENS, max_tokens)
    if is_decoding:
        budget_s = max(BUDGET_SHARE * stall_target_s - decode_step_s, stall_target_s / 4)
    else:
        budget_s = stall_target_s * IDLE_STALL_FACTOR
    tokens = min(cost.fitting_tokens(depth, budget_s), int(cost.largest * MAX_GROWTH), max_tokens)
    return max(MIN_CHUNK_TOKENS, tokens // GRANULE_TOKENS * GRANULE_TOKENS)
