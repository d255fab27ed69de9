"""What prefill costs on a worker: one value, measured by its engine, told in its lease, used wherever seconds are
predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCost:
    """A pass over `n` tokens of a prompt, from depth `start` to `end`, takes

        pass_s + token_s * n + depth_s * n * (start + end) / 2        seconds:

    what every pass costs (reading the weights), what each token costs, and what each costs per token before it
    (attention). `pass_tokens` are those of a pass that nothing bounds but the engine; longer stretches take several.
    All 0 while nothing was measured.
    """

    pass_s: float = 0.0
    token_s: float = 0.0
    depth_s: float = 0.0
    pass_tokens: int = 0

    @property
    def is_known(self) -> bool:
        return self.token_s > 0 or self.pass_s > 0

    @property
    def tokens_per_s(self) -> float:
        """At the start of a prompt, in whole passes; 0 while unknown."""
        tokens = max(1, self.pass_tokens)
        return tokens / (self.pass_s + self.token_s * tokens) if self.is_known else 0.0

    def predict_s(self, start: int, end: int) -> float:
        """Seconds of the tokens from depth `start` to `end`, in as many passes as they take."""
        tokens = end - start
        passes = math.ceil(tokens / self.pass_tokens) if self.pass_tokens else min(tokens, 1)
        return passes * self.pass_s + tokens * (self.token_s + self.depth_s * (start + end) / 2)

    def pass_time_s(self, start: int, tokens: int) -> float:
        """Seconds of one pass over `tokens` from depth `start` on."""
        return self.pass_s + tokens * (self.token_s + self.depth_s * (start + tokens / 2))

    def fitting_tokens(self, start: int, budget_s: float) -> int:
        """How many tokens from depth `start` on one pass computes in `budget_s`; 0 when it takes longer by itself."""
        left_s = budget_s - self.pass_s
        if left_s <= 0:
            return 0
        half, linear = self.depth_s / 2, self.token_s + self.depth_s * start
        if half * left_s < 1e-12 * linear * linear:
            return int(left_s / linear)
        return int((math.sqrt(linear * linear + 4 * half * left_s) - linear) / (2 * half))

    def efficient_tokens(self, start: int, share: float) -> int:
        """The fewest tokens of a pass from depth `start` on that are computed at `share` (below 1) of the rate which
        passes without end would have."""
        each_s = self.token_s + self.depth_s * start
        return math.ceil(share / (1 - share) * self.pass_s / each_s) if each_s > 0 else 0
