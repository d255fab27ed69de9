"""How long requests hold their places, as the lease tells it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_SMOOTHING = 0.1


class RunningMean:
    """Exponential mean and deviation of what is observed; the first few count equally. Both 0 before the first."""

    def __init__(self) -> None:
        self._count = 0
        self.mean = 0.0
        self._variance = 0.0

    @property
    def deviation(self) -> float:
        return math.sqrt(self._variance)

    def observe(self, value: float) -> None:
        """West's incremental update of an exponentially weighted mean and variance (Finch, 2009)."""
        self._count += 1
        weight = max(_SMOOTHING, 1 / self._count)
        difference = value - self.mean
        self.mean += weight * difference
        self._variance = (1 - weight) * (self._variance + weight * difference * difference)


@dataclass(slots=True)
class Pace:
    """Seconds that this worker's requests take: their prefill, and from its start to their end. And the tokens that a
    byte of their text takes."""

    prefill_s: RunningMean = field(default_factory=RunningMean)
    service_s: RunningMean = field(default_factory=RunningMean)
    tokens_per_byte: RunningMean = field(default_factory=RunningMean)
