"""By how much a worker's requests take longer than gateways predicted, learned term by term.

A gateway predicts the wait until a prefill begins and the prefill itself; both travel with the request. The worker
compares and tells in its lease by what predictions are to be multiplied, so that all gateways correct them in the same
way and none has to remember anything. A prefill beside streams that decode has a factor of its own: that is what they
cost it.
"""

from __future__ import annotations

import math

_SMOOTHING = 0.1
_FEW = 5  # the first few count equally
_LEAST, _MOST = 0.5, 2.0
_LEAST_S = 0.05  # a shorter prediction says nothing


class Factor:
    """An exponential mean of ratios, in logarithms: twice as long and half as long even out."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0

    @property
    def value(self) -> float:
        return min(_MOST, max(_LEAST, math.exp(self._mean)))

    def observe(self, *, predicted_s: float, actual_s: float) -> None:
        if predicted_s < _LEAST_S:
            return
        self._count += 1
        ratio = math.log(min(4 * _MOST, max(_LEAST / 4, actual_s / predicted_s)))
        self._mean += max(_SMOOTHING, 1 / max(_FEW, self._count)) * (ratio - self._mean)


class Drift:
    """The factors of one worker. Changed under its runner's lock, read from any thread."""

    def __init__(self) -> None:
        self.wait = Factor()
        self.alone = Factor()
        self.beside = Factor()

    def note_prefill(self, *, predicted_s: float, actual_s: float, is_beside: bool) -> None:
        (self.beside if is_beside else self.alone).observe(predicted_s=predicted_s, actual_s=actual_s)
