"""What a decode step costs here, fitted to the steps that were measured."""

from __future__ import annotations

from dataclasses import dataclass

from worker.engines.mlx.least_squares import Fit

_ASSUMED_BYTES_PER_S = 100e9  # only what a pass costs beside what a token costs matters before the first step
_PASS_OVERHEAD_BYTES = 64 << 20  # what a device could read in the time that starting one more pass takes
_STALL_SHARE = 0.1  # of the last one in the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds that a step takes for each pass and for each token of its caches, padding included. `stall_s` is what it
    takes more where the device waits for the host, because a row may only say what a grammar allows; 0 while unknown.
    """

    pass_s: float
    token_s: float
    stall_s: float = 0.0


class StepMeter:
    def __init__(self, *, weight_bytes: int, token_bytes: int) -> None:
        """Until something was measured, a pass reads half of the weights."""
        pass_bytes = weight_bytes // 2 + _PASS_OVERHEAD_BYTES
        self._fit = Fit((pass_bytes / _ASSUMED_BYTES_PER_S, 0.0, token_bytes / _ASSUMED_BYTES_PER_S))
        self._is_measured = False
        self._stall_s = 0.0

    @property
    def cost(self) -> StepCost:
        pass_s, _, token_s = self._fit.factors
        return StepCost(pass_s=pass_s, token_s=token_s, stall_s=self._stall_s)

    def observe(self, *, groups: int, rows: int, tokens: int, seconds: float) -> None:
        """A step of so many passes with so many rows in all, whose caches hold `tokens`, padding included."""
        if seconds <= 0:
            return
        numbers = (float(groups), float(rows), float(tokens))
        if not self._is_measured:
            self._is_measured = True
            scale = seconds / sum(n * factor for n, factor in zip(numbers, self._fit.factors, strict=True))
            pass_s, row_s, token_s = self._fit.factors
            self._fit = Fit((pass_s * scale, row_s * scale, token_s * scale))
        self._fit.note((groups, rows.bit_length(), tokens.bit_length()), numbers, seconds)

    def observe_stall(self, seconds: float) -> None:
        """For so long the device waited in a step for what a row may say next."""
        self._stall_s += (seconds - self._stall_s) * (_STALL_SHARE if self._stall_s else 1.0)
