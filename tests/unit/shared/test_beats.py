"""Those who look now and then do it at the same moments."""

from __future__ import annotations

import pytest

from shared.beats import until_beat_s


@pytest.mark.parametrize(
    ("now_s", "left_s"),
    [(7.0, 1.0), (7.25, 0.75), (7.85, 0.15), (7.95, 1.05), (0.0, 1.0)],
)
def test_a_look_is_due_at_the_next_second_that_is_not_just_now(now_s: float, left_s: float) -> None:
    assert until_beat_s(1.0, now_s) == pytest.approx(left_s)


def test_whoever_begins_at_another_moment_looks_at_the_same_ones() -> None:
    began_s = [100.0 + number / 7 for number in range(60)]
    due_s = {round((now_s + until_beat_s(2.0, now_s)) % 2.0, 6) % 2.0 for now_s in began_s}
    assert due_s == {0.0}


def test_nobody_waits_longer_than_the_period_and_a_tenth() -> None:
    waits_s = [until_beat_s(0.25, number / 1000) for number in range(2000)]
    assert min(waits_s) >= 0.025
    assert max(waits_s) <= 0.275
    assert 0.1 <= until_beat_s(1.0) <= 1.1
