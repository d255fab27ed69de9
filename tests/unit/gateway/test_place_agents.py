"""Agents on several Macs, simulated: the first token by our rule, and by others."""

from __future__ import annotations

import statistics

import pytest

from tests.bench.report import percentile
from tests.bench.simulated import RULES, SAME_TURNS, mean_first_s, same_turns_first_s
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


@pytest.mark.parametrize(("size", "load"), [(2, "busy"), (4, "light"), (4, "busy")])
def test_the_same_turns_come_sooner_than_by_sticky_sessions_also_for_those_who_wait_longest(
    size: int, load: str
) -> None:
    first_s = {rule: same_turns_first_s(rule, size, load, seeds=range(2)) for rule in ("ours", "sticky")}
    assert statistics.mean(first_s["ours"]) < 0.9 * statistics.mean(first_s["sticky"])
    assert percentile(first_s["ours"], 0.95) < percentile(first_s["sticky"], 0.95)


def test_turns_that_are_compared_are_the_same_by_every_rule() -> None:
    asked = {
        rule: sorted(
            (ask.conversation, ask.tokens, ask.said, ask.turn) for ask in fleet(2, "busy").run_turns(SAME_TURNS)
        )
        for rule, fleet in RULES.items()
    }
    assert asked["ours"] == asked["sticky"] == asked["shared-queue"]
    assert {turn for *_, turn in asked["ours"]} == set(SAME_TURNS)


def test_a_new_conversation_goes_where_fewer_are_unless_its_first_token_is_much_later_there() -> None:
    """It will come back, and wait each time."""
    full = mac("fast", 2000, capacity=4, held=(4, 0, 0, 0), service_s=1.0)
    decided = placed(full, mac("slow", 900, capacity=4))
    assert (decided.worker, decided.reason) == ("slow", "begins soon, where fewer are")
    assert placed(full, mac("slow", 100, capacity=4)).worker == "fast"
    assert placed(mac("fast", 2000), mac("slow", 900)).worker == "fast"
