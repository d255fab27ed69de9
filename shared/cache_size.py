"""What the cache of one sequence takes: measured where a model is loaded, reckoned from its config.json elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """Bytes of one sequence's cache. `windows` holds (tokens, bytes per token) for each windowed layer."""

    token_bytes: int
    windows: tuple[tuple[int, int], ...]
    state_bytes: int

    def predict(self, tokens: int) -> int:
        return (
            self.token_bytes * tokens
            + sum(min(tokens, window) * per_token for window, per_token in self.windows)
            + self.state_bytes
        )

    def fitting_tokens(self, budget_bytes: int) -> int:
        """The longest sequence whose cache fits, by bisection."""
        low, high = 0, 1 << 32
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.predict(middle) <= budget_bytes else (low, middle)
        return low
