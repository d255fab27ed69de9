"""What prefill passes cost here, fitted to those that were measured, and by how much they exceed what was predicted.

The three factors of `PrefillCost` are fitted by least squares of the relative errors, older passes counting
exponentially less. What the passes do not tell apart (of one size, what each pass costs from what each token costs)
stays as it was: the fit is drawn a little towards the one before (Levenberg, 1944). No factor is negative: one that
would be is 0, and the others are fitted without it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from shared.cost import PrefillCost

LEAST_MEASURED_TOKENS = 16  # a shorter pass tells nothing of longer ones
_DECAY = 0.95
_DRAW = 0.01  # towards the last fit, as a share of what each factor's own measurements weigh
_LEAST_TOKEN_S = 1e-9
_RATIOS = 128  # of the last passes, from which the quantile is taken
_QUANTILE = 0.99
_FEW = 16
_FEW_EXCESS = 1.2  # while few were measured
_LEAST_EXCESS, _MOST_EXCESS = 1.05, 2.0

Row = tuple[float, float, float]


class PrefillMeter:
    """`largest` is the longest pass measured; `excess` the factor by which one pass in a hundred exceeds what was
    predicted for it."""

    def __init__(self) -> None:
        self.cost = PrefillCost()
        self.largest = 0
        self._weights = [[0.0] * 3 for _ in range(3)]
        self._sums = [0.0] * 3
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
            self._ratios.append(seconds / max(1e-9, self.cost.pass_time_s(start, tokens)))
        else:
            self.cost = PrefillCost(token_s=seconds / tokens)
        self.largest = max(self.largest, tokens)
        self._note((1 / seconds, tokens / seconds, tokens * (start + end) / 2 / seconds))
        self._fit()

    @property
    def excess(self) -> float:
        ordered = sorted(self._ratios)
        if len(ordered) < _FEW:
            return max(_FEW_EXCESS, min(_MOST_EXCESS, ordered[-1] if ordered else 0.0))
        quantile = ordered[math.ceil(_QUANTILE * len(ordered)) - 1]
        return min(_MOST_EXCESS, max(_LEAST_EXCESS, quantile))

    def _note(self, row: Row) -> None:
        """`row` times the factors should be 1."""
        for i in range(3):
            self._sums[i] = self._sums[i] * _DECAY + row[i]
            for j in range(3):
                self._weights[i][j] = self._weights[i][j] * _DECAY + row[i] * row[j]

    def _fit(self) -> None:
        last = (self.cost.pass_s, self.cost.token_s, self.cost.depth_s)
        free = [0, 1, 2]
        while True:
            found = self._solved(free, last)
            worst = min(found, key=found.__getitem__)
            if found[worst] >= 0 or len(free) == 1:
                break
            free.remove(worst)
        self.cost = replace(
            self.cost,
            pass_s=max(0.0, found.get(0, 0.0)),
            token_s=max(_LEAST_TOKEN_S, found.get(1, 0.0)),
            depth_s=max(0.0, found.get(2, 0.0)),
            pass_tokens=self.largest,
        )

    def _solved(self, free: Sequence[int], last: Row) -> dict[int, float]:
        """The factors `free`, by index, the others being 0."""
        drawn = {i: _DRAW * self._weights[i][i] for i in free}
        matrix = [[self._weights[i][j] + (drawn[i] if i == j else 0.0) for j in free] for i in free]
        vector = [self._sums[i] + drawn[i] * last[i] for i in free]
        return dict(zip(free, _solve(matrix, vector), strict=True))


def _solve(matrix: list[list[float]], vector: list[float]) -> list[float]:
    """Gaussian elimination of a positive definite system, which needs no pivoting."""
    if not matrix:
        return []
    (pivot, *rest), *rows = matrix
    factors = [row[0] / pivot if pivot else 0.0 for row in rows]
    lower = [[b - f * a for a, b in zip(rest, row[1:], strict=True)] for f, row in zip(factors, rows, strict=True)]
    found = _solve(lower, [value - f * vector[0] for f, value in zip(factors, vector[1:], strict=True)])
    first = (vector[0] - sum(a * x for a, x in zip(rest, found, strict=True))) / pivot if pivot else 0.0
    return [first, *found]
