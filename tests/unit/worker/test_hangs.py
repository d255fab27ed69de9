"""When an engine is said to hang: sooner than the worker gives up, later than what it does takes."""

from __future__ import annotations

import pytest

from shared.cost import PrefillCost
from worker.engines.base import EngineStats
from worker.engines.stall import StallClock
from worker.serving.figures import hangs_after_s

SLOW_PREFILL = PrefillCost(token_s=0.003, pass_tokens=1000)


@pytest.mark.parametrize(
    ("stats", "expected_s"),
    [
        (EngineStats(stalled_s=0.0, longest_step_s=0.05), 2.0),
        (EngineStats(stalled_s=0.0, longest_step_s=1.5), 4.5),
        (EngineStats(stalled_s=0.0, longest_step_s=0.05, prefill_cost=SLOW_PREFILL), 9.0),
        (EngineStats(stalled_s=0.0, longest_step_s=0.05, prefill_cost=PrefillCost(token_s=1, pass_tokens=1000)), 60.0),
        (EngineStats(stalled_s=0.0), 60.0),  # nothing is known yet of how long its steps take
        (EngineStats(longest_step_s=0.05), 60.0),  # it keeps no clock
    ],
)
def test_an_engine_hangs_after_several_of_its_longest_steps(stats: EngineStats, expected_s: float) -> None:
    assert hangs_after_s(stats, stall_s=60.0) == pytest.approx(expected_s)


def test_the_clock_remembers_the_longest_step_for_a_while() -> None:
    now_s = 0.0
    clock = StallClock(lambda: now_s)
    for step_s in (0.1, 2.0, 0.1):
        with clock.running():
            now_s += step_s
            clock.alive()
    assert clock.longest_s == pytest.approx(2.0, rel=0.01)
    for _ in range(5000):
        clock.alive()
    assert clock.longest_s < 0.1
