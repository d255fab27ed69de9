"""How fast the server is, by what was seen of each answer."""

from __future__ import annotations

import time

from worker.engines.base import EngineStats

_SHARE = 0.2  # of the last answer
_LEAST_TOKENS = 16  # fewer tell nothing


class Pace:
    """Of one answer, from when it is asked for."""

    def __init__(self) -> None:
        self._asked_s = time.monotonic()
        self._first_s = self._last_s = 0.0
        self.computed_tokens = self.cached_tokens = self.generated_tokens = 0

    def begin(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.computed_tokens, self.cached_tokens = prompt_tokens - cached_tokens, cached_tokens

    def generated(self, tokens: int) -> None:
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self.generated_tokens += tokens

    @property
    def prefill_s(self) -> float:
        return max(0.0, self._first_s - self._asked_s)

    @property
    def decode_s(self) -> float:
        return self._last_s - self._first_s


class Rates:
    def __init__(self) -> None:
        self._prefill = self._decode = 0.0
        self._computed = self._cached = 0

    def observe(self, pace: Pace) -> None:
        self._computed += pace.computed_tokens
        self._cached += pace.cached_tokens
        self._prefill = _mixed(self._prefill, pace.computed_tokens, pace.prefill_s)
        self._decode = _mixed(self._decode, pace.generated_tokens - 1, pace.decode_s)

    def stats(self, *, starts: int, disk_bytes: int) -> EngineStats:
        return EngineStats(
            prefill_tokens_per_s=self._prefill,
            decode_tokens_per_s=self._decode,
            metrics={
                "computed_tokens_new": float(self._computed),
                "prefix_cache_hit_tokens": float(self._cached),
                "prefix_cache_disk_bytes": float(disk_bytes),
                "server_starts": float(starts),
            },
        )


def _mixed(before: float, tokens: int, seconds: float) -> float:
    if tokens < _LEAST_TOKENS or seconds <= 0:
        return before
    now = tokens / seconds
    return now if not before else (1 - _SHARE) * before + _SHARE * now
