"""Seconds as a sum of three products, fitted to what was measured.

The factors are fitted by least squares of the relative errors. What was measured is remembered by its class, each with
a memory of its own, so that hours of one kind do not make the fit forget another. What the measurements do not tell
apart stays as it was: the fit is drawn a little towards the one before (Levenberg, 1944). No factor is negative: one
that would be is 0, and the others are fitted without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

_DECAY = 0.9  # within a class
_DRAW = 0.001  # towards the last fit, as a share of what each factor's own measurements weigh

Row = tuple[float, float, float]


# The normal equations of rows that, times the factors, should each be 1: the six weights of the symmetric matrix, row
# by row from the diagonal on, and the three sums.
_Equations = tuple[float, float, float, float, float, float, float, float, float]
_NONE: _Equations = (0.0,) * 9


class Fit:
    """`factors` are those of the three numbers of which the seconds are the sum."""

    def __init__(self, factors: Row) -> None:
        self._factors = factors
        self._is_new = False  # whether anything was noted since they were fitted
        self._classes: dict[Hashable, _Equations] = {}
        self._all = _NONE

    def note(self, kind: Hashable, numbers: Row, seconds: float) -> None:
        """What took `seconds`, and the class that it is remembered by. Takes microseconds."""
        a, b, c = (number / seconds for number in numbers)
        row = (a * a, a * b, a * c, b * b, b * c, c * c, a, b, c)
        before = self._classes.get(kind, _NONE)
        after = tuple(old * _DECAY + new for old, new in zip(before, row, strict=True))
        self._classes[kind] = after  # type: ignore[assignment]  # nine of nine
        self._all = tuple(  # type: ignore[assignment]
            each - old + new for each, old, new in zip(self._all, before, after, strict=True)
        )
        self._is_new = True

    @property
    def factors(self) -> Row:
        if self._is_new:
            aa, ab, ac, bb, bc, cc, *sums = self._all
            self._factors = _fitted([[aa, ab, ac], [ab, bb, bc], [ac, bc, cc]], sums, self._factors)
            self._is_new = False
        return self._factors


def _fitted(weights: list[list[float]], sums: list[float], last: Row) -> Row:
    """The factors, none negative, that solve the normal equations."""
    free = [0, 1, 2]
    while True:
        found = _solved(weights, sums, last, free)
        worst = min(found, key=found.__getitem__)
        if found[worst] >= 0 or len(free) == 1:
            return max(0.0, found.get(0, 0.0)), max(0.0, found.get(1, 0.0)), max(0.0, found.get(2, 0.0))
        free.remove(worst)


def _solved(weights: list[list[float]], sums: list[float], last: Row, free: Sequence[int]) -> dict[int, float]:
    """The factors `free`, by index, the others being 0."""
    drawn = {i: _DRAW * weights[i][i] for i in free}
    matrix = [[weights[i][j] + (drawn[i] if i == j else 0.0) for j in free] for i in free]
    vector = [sums[i] + drawn[i] * last[i] for i in free]
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
