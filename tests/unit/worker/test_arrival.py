"""How long a prompt waits for what another host sends: never longer than computing takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.cost import PrefillCost
from worker.cache_files.arrival import Arrival, Patience
from worker.cache_files.file_format import FileInfo
from worker.prefix_cache.tokens import pack_tokens

TOKENS, MB = 1000, 1_000_000
COST = PrefillCost(token_s=0.01)  # ten seconds for all


def waited_s(rate: Callable[[float], float], *, cost: PrefillCost = COST, start: int = 0) -> float | None:
    """When patience ends with an arrival of 100 MB whose bytes come at `rate(seconds)` a second; None when all came."""
    info = FileInfo(
        key=b"k",
        parent=b"",
        seed=b"s",
        start=0,
        tokens=pack_tokens(range(TOKENS)),
        is_checkpoint=False,
        nbytes=100 * MB,
    )
    arrival = Arrival(peer="a", wanted=[info], start=start, end=TOKENS, began_s=0.0)
    patience = Patience(arrival)
    for step in range(1, 10_000):
        now_s = step / 100
        arrival.got_bytes = min(info.nbytes, arrival.got_bytes + int(rate(now_s) / 100))
        if arrival.got_bytes == info.nbytes:
            return None
        if patience.is_used_up(now_s, cost):
            return now_s
    raise AssertionError("it never ends")


@pytest.mark.parametrize("rate", [12 * MB, 50 * MB, 1250 * MB])
def test_what_comes_sooner_than_it_is_computed_is_waited_for(rate: float) -> None:
    assert waited_s(lambda _: rate) is None


def test_what_comes_slower_is_given_up_at_once_and_not_when_the_time_is_over() -> None:
    given_up_s = waited_s(lambda _: 5 * MB)
    assert given_up_s is not None
    assert given_up_s <= 1.0


def test_a_link_that_slows_down_on_the_way_is_left_for_what_is_missing() -> None:
    given_up_s = waited_s(lambda now_s: 20 * MB if now_s < 2 else 0.5 * MB)
    assert given_up_s is not None
    assert 2 < given_up_s < 4.5


def test_a_peer_that_falls_silent_is_waited_for_as_long_as_that_may_pay() -> None:
    assert waited_s(lambda now_s: 0.0 if 1 < now_s < 1.8 else 50 * MB) is None, "it was busy for a moment"
    given_up_s = waited_s(lambda _: 0.0)
    assert given_up_s is not None
    assert 1 < given_up_s < 5


def test_all_ends_when_all_could_have_been_computed() -> None:
    quick = PrefillCost(token_s=0.0001)
    given_up_s = waited_s(lambda _: 0.0, cost=quick)
    assert given_up_s is not None
    assert given_up_s <= 0.11
    rest = waited_s(lambda _: 0.0, cost=quick, start=900)
    assert rest is not None
    assert rest <= 0.02, "of what is known here nothing is computed"
