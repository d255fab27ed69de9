"""Who of a host's workers may hold how much of its memory: laws that hold for any figures."""

from __future__ import annotations

import functools
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from worker.device.sharing import Holding, decide, fill, shares

LIMIT = 1000
amounts = st.integers(0, 600)
holdings = st.builds(
    Holding,
    base_bytes=st.integers(0, 200),
    running_bytes=amounts,
    spare_bytes=amounts,
    wanted_bytes=st.one_of(st.just(0), amounts),
    since_s=st.integers(0, 5).map(float),
)
hosts = st.lists(holdings, min_size=1, max_size=5)


def split(host: list[Holding], index: int) -> tuple[Holding, list[Holding]]:
    return host[index], host[:index] + host[index + 1 :]


@given(st.lists(amounts, min_size=1, max_size=6), amounts)
def test_what_is_short_is_divided_so_that_nobody_has_less_than_another_without_need(
    wants: list[int], budget: int
) -> None:
    given_ = fill(wants, budget)
    assert sum(given_) == min(budget, sum(wants))
    short = [got for got, want in zip(given_, wants, strict=True) if got < want]
    assert all(got <= want for got, want in zip(given_, wants, strict=True))
    assert not short or max(given_) <= min(short) + 1


@given(hosts)
def test_everyone_may_have_what_it_needs_within_its_share(host: list[Holding]) -> None:
    for index, share in enumerate(shares(LIMIT, host)):
        mine, others = split(host, index)
        keep = decide(LIMIT, mine, others).keep_bytes
        need = mine.base_bytes + mine.running_bytes
        assert keep >= min(need, share)
        assert keep >= need + mine.wanted_bytes or need + mine.wanted_bytes > share
        assert keep >= mine.base_bytes


@given(hosts)
def test_what_may_grow_never_takes_what_others_still_hold(host: list[Holding]) -> None:
    for index in range(len(host)):
        mine, others = split(host, index)
        allowance = decide(LIMIT, mine, others)
        theirs = sum(other.held_bytes for other in others)
        assert allowance.limit_bytes + theirs <= max(LIMIT, theirs)
        assert allowance.limit_bytes <= allowance.keep_bytes


@given(hosts)
def test_nobody_gives_anything_up_while_there_is_enough(host: list[Holding]) -> None:
    if sum(holding.held_bytes + holding.wanted_bytes for holding in host) > LIMIT:
        host = [
            replace(
                h, running_bytes=h.running_bytes // 20, spare_bytes=h.spare_bytes // 20, wanted_bytes=10, base_bytes=9
            )
            for h in host
        ]
    for index in range(len(host)):
        mine, others = split(host, index)
        allowance = decide(LIMIT, mine, others)
        assert allowance.keep_bytes >= mine.held_bytes + mine.wanted_bytes
        assert allowance.spare_bytes >= mine.spare_bytes


@given(hosts)
def test_running_requests_are_touched_only_when_nobody_has_anything_to_spare(host: list[Holding]) -> None:
    allowances = [decide(LIMIT, *split(host, index)) for index in range(len(host))]
    is_cut = any(
        allowance.keep_bytes - allowance.spare_bytes < holding.base_bytes + holding.running_bytes
        for allowance, holding in zip(allowances, host, strict=True)
    )
    assert not is_cut or all(allowance.spare_bytes == 0 for allowance in allowances)


@given(st.integers(0, 200), amounts, amounts, amounts)
def test_a_worker_alone_may_use_everything(base: int, running: int, spare: int, wanted: int) -> None:
    alone = Holding(base_bytes=base, running_bytes=running, spare_bytes=spare, wanted_bytes=wanted)
    allowance = decide(LIMIT, alone, [])
    assert (allowance.limit_bytes, allowance.keep_bytes, allowance.most_bytes) == (LIMIT, LIMIT, LIMIT)


def obey(host: list[Holding], index: int) -> list[Holding]:
    """The host after one worker did as it may and must: gave up what it must, began what it wants if there is room."""
    mine, others = split(host, index)
    allowance = decide(LIMIT, mine, others)
    spare = min(
        mine.spare_bytes, max(0, allowance.keep_bytes - mine.base_bytes - mine.running_bytes - mine.wanted_bytes)
    )
    spare = min(mine.spare_bytes, max(spare, allowance.spare_bytes if not mine.wanted_bytes else 0))
    mine = replace(mine, spare_bytes=spare)
    if mine.base_bytes + mine.running_bytes > allowance.keep_bytes:  # interrupted
        mine = replace(mine, running_bytes=max(0, allowance.keep_bytes - mine.base_bytes))
    elif mine.wanted_bytes and mine.held_bytes + mine.wanted_bytes <= allowance.limit_bytes:
        mine = replace(mine, running_bytes=mine.running_bytes + mine.wanted_bytes, wanted_bytes=0)
    return [*host[:index], mine, *host[index + 1 :]]


@given(hosts, st.lists(st.integers(0, 4), max_size=8))
@example(
    [
        Holding(base_bytes=42, wanted_bytes=228),
        Holding(base_bytes=200, spare_bytes=231),
        Holding(base_bytes=73, spare_bytes=230),
    ],
    [],
)
def test_a_request_within_the_share_is_served_as_soon_as_everyone_did_its_part(
    host: list[Holding], order: list[int]
) -> None:
    before = sum(holding.held_bytes for holding in host)
    wanting = [
        index
        for index, share in enumerate(shares(LIMIT, host))
        if host[index].base_bytes + host[index].running_bytes + host[index].wanted_bytes <= share
    ]
    for index in [*(i for i in order if i < len(host)), *range(len(host)), *range(len(host))]:
        host = obey(host, index)
        assert sum(holding.held_bytes for holding in host) <= max(LIMIT, before)
    # The odd byte of a division is another's in the next round: who kept it gives it up then.
    while (after := functools.reduce(obey, range(len(host)), host)) != host:
        host = after
    assert all(host[index].wanted_bytes == 0 for index in wanting)


def test_the_earlier_of_two_large_requests_goes_first_and_whole() -> None:
    first = Holding(base_bytes=100, wanted_bytes=700, since_s=1.0)
    second = Holding(base_bytes=100, wanted_bytes=700, since_s=2.0)
    assert decide(LIMIT, first, [second]).limit_bytes >= 800
    assert decide(LIMIT, second, [first]).limit_bytes < 800
