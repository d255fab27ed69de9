"""What prefill passes cost here, fitted to those that were measured, and by how much they exceed what was predicted.

Passes are remembered by their size and depth in powers of two: hours of chunks at one depth do not make the meter
forget what they cost at another. How fast the machine is now, warm or shared, is a factor apart that follows the last
few passes.
"""

from __future__ import annotations

import math
from collections import deque

from shared.cost import PrefillCost
from worker.engines.mlx.least_squares import Fit

LEAST_MEASURED_TOKENS = 16  # a shorter pass tells nothing of longer ones
_PACE_SHARE = 0.1  # of the last pass in the machine's pace
_PACE_KEPT = 0.995  # from pass to pass: what lasts becomes usual
_LEAST_TOKEN_S = 1e-9
_RATIOS = 128  # of the last passes, from which the quantile is taken
_QUANTILE = 0.99
_FEW = 16
_FEW_EXCESS = 1.2  # while few were measured
_LEAST_EXCESS, _MOST_EXCESS = 1.05, 2.0


class PrefillMeter:
    """`cost` is that of the machine as it is now; `largest` the longest pass measured."""

    def __init__(self) -> None:
        self.cost = PrefillCost()
        self.largest = 0
        self._usual = Fit((0.0, 0.0, 0.0))  # at pace 1: of a pass, a token, a token and depth
        self._pace = 1.0  # seconds to the usual ones
        self._ratios: deque[float] = deque(maxlen=_RATIOS)

    def predict_s(self, start: int, end: int) -> float:
        """Seconds of the tokens between two depths; a thousandth each while nothing was measured."""
        return self.cost.predict_s(start, end) if self.cost.is_known else (end - start) * 1e-3

    def observe(self, start: int, end: int, seconds: float) -> None:
        """One pass over the tokens from depth `start` to `end`."""
        tokens = end - start
        if tokens < LEAST_MEASURED_TOKENS or seconds <= 0:
            return
        if self.largest:
            self._ratios.append(self._ratio(start, tokens, seconds))
        else:
            self._usual = Fit((0.0, seconds / tokens, 0.0))
        self.largest = max(self.largest, tokens)
        numbers = (1.0, float(tokens), tokens * (start + end) / 2)
        self._usual.note((tokens.bit_length(), end.bit_length()), numbers, seconds / self._pace)
        self._tell()
        unexplained = self._ratio(start, tokens, seconds)
        self._pace **= _PACE_KEPT
        self._pace *= min(_MOST_EXCESS, max(1 / _MOST_EXCESS, unexplained)) ** _PACE_SHARE

    def _ratio(self, start: int, tokens: int, seconds: float) -> float:
        return seconds / max(1e-9, self.cost.pass_time_s(start, tokens))

    @property
    def excess(self) -> float:
        """The factor by which one pass in a hundred exceeds what was predicted for it."""
        ordered = sorted(self._ratios)
        if len(ordered) < _FEW:
            return max(_FEW_EXCESS, min(_MOST_EXCESS, ordered[-1] if ordered else 0.0))
        quantile = ordered[math.ceil(_QUANTILE * len(ordered)) - 1]
        return min(_MOST_EXCESS, max(_LEAST_EXCESS, quantile))

    def _tell(self) -> None:
        pass_s, token_s, depth_s = self._usual.factors
        self.cost = PrefillCost(
            pass_s=pass_s * self._pace,
            token_s=max(_LEAST_TOKEN_S, token_s * self._pace),
            depth_s=depth_s * self._pace,
            pass_tokens=self.largest,
        )
