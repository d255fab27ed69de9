"""Who asks Redis for something waits until it is back, but not for ever, and not one after the other."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.dispatch.outage import outlast
from shared.errors import BrokerUnavailableError


class Broker:
    """Away for the first tries."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.asked = 0

    async def ask(self) -> int:
        self.asked += 1
        if self.asked <= self.failures:
            raise BrokerUnavailableError("away")
        return self.asked


def test_a_short_absence_is_not_noticed() -> None:
    broker = Broker(2)
    assert asyncio.run(outlast(broker.ask, patience_s=10, away_s=lambda: 0.1)) == 3


def test_without_patience_the_first_failure_is_told() -> None:
    broker = Broker(1)
    with pytest.raises(BrokerUnavailableError):
        asyncio.run(outlast(broker.ask, patience_s=0, away_s=lambda: 0.0))
    assert broker.asked == 1


def test_a_long_absence_is_told_at_once_to_who_comes_late() -> None:
    broker, began_s = Broker(1000), time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        asyncio.run(outlast(broker.ask, patience_s=60, away_s=lambda: 61.0))
    assert broker.asked == 1
    assert time.monotonic() - began_s < 30
