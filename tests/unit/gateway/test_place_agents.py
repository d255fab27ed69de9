"""Agents on several Macs, simulated: the first token by our rule, and by others."""

from __future__ import annotations

import pytest

from tests.bench.simulated import RULES, mean_first_s
from tests.unit.gateway.test_prospects import mac, placed

_SECONDS = 800.0
_SEEDS = range(3)


@pytest.mark.parametrize(("size", "load", "times"), [(2, "light", 1.9), (2, "busy", 1.6), (4, "busy", 2.8)])
def test_agents_wait_less_than_by_sticky_sessions_and_much_less_than_in_one_queue(
    size: int, load: str, times: float
) -> None:
    mean_s = {rule: mean_first_s(rule, size, load, seconds=_SECONDS, seeds=_SEEDS) for rule in RULES}
    assert mean_s["ours"] < mean_s["sticky"], mean_s
    assert times * mean_s["ours"] < mean_s["shared-queue"], mean_s


def test_a_new_conversation_goes_where_fewer_are_unless_its_first_token_is_much_later_there() -> None:
    """It will come back, and wait each time."""
    full = mac("fast", 2000, capacity=4, held=(4, 0, 0, 0), service_s=1.0)
    decided = placed(full, mac("slow", 900, capacity=4))
    assert (decided.worker, decided.reason) == ("slow", "begins soon, where fewer are")
    assert placed(full, mac("slow", 100, capacity=4)).worker == "fast"
    assert placed(mac("fast", 2000), mac("slow", 900)).worker == "fast"
