"""Whoever was away cannot say that others were silent."""

from __future__ import annotations

from shared.steady import Steady


def test_looks_without_a_gap_add_up_and_a_gap_begins_anew() -> None:
    now_s = 100.0
    steady = Steady(1.0, lambda: now_s)
    for _ in range(10):
        now_s += 0.5
        steady.look()
    assert steady.for_s == 5.0
    now_s += 8.0
    assert steady.for_s == 0.0, "asked before the first look after it"
    steady.look()
    now_s += 0.25
    assert steady.for_s == 0.25
