"""The scheduler's decisions: order, sizes of chunks, groups."""

from __future__ import annotations

import random
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.cost import PrefillCost
from shared.request import Priority
from worker.engines.mlx.decode.grouping import GroupShape, Room, choose_group
from worker.engines.mlx.decode.step_meter import StepCost, StepMeter
from worker.engines.mlx.prefill.meter import PrefillMeter
from worker.engines.mlx.prefill.scheduler import (
    AGEING,
    DECODE_SHARE,
    HANDICAP_S,
    Candidate,
    DecodeShare,
    chunk_tokens,
    owes_share,
    pick,
)


def measured(
    per_token_s: float = 1e-3, per_depth_s: float = 0.0, pass_s: float = 0.0, noise: float = 0.0
) -> PrefillMeter:
    """A meter that has seen chunks of a device with these properties, of sizes as prompts leave them, whose time is
    right up to a share `noise`."""
    meter, dice = PrefillMeter(), random.Random(1)
    for start in range(0, 40_000, 200):
        tokens = dice.choice([100, 500, 1000])
        seconds = pass_s + tokens * (per_token_s + per_depth_s * (start + tokens / 2))
        meter.observe(start, start + tokens, seconds * dice.uniform(1 - noise, 1 + noise))
    return meter


def candidate(key: str, tokens: int, *, waited_s: float = 0.0, priority: Priority = "interactive") -> Candidate:
    return Candidate(key=key, priority=priority, depth=0, uncached_tokens=tokens, waited_s=waited_s)


def key_of(chosen: Candidate | None) -> str:
    assert chosen is not None
    return chosen.key


def test_shortest_uncached_goes_first() -> None:
    assert key_of(pick([candidate("long", 9000), candidate("short", 90)], measured())) == "short"


def test_waiting_wins_over_length_in_the_end() -> None:
    long = candidate("long", 9000, waited_s=9.0 / AGEING + 1)
    assert key_of(pick([long, candidate("short", 90)], measured())) == "long"


def test_classes_of_equal_length_go_main_conversation_subagent_side_batch() -> None:
    order: list[Priority] = ["batch", "side", "subagent", "interactive"]
    left = [candidate(name, 100, priority=name) for name in order]
    taken = []
    while (chosen := pick(left, measured())) is not None:
        taken.append(chosen.key)
        left.remove(chosen)
    assert taken == ["interactive", "subagent", "side", "batch"]


def test_batch_work_does_not_starve() -> None:
    patient = candidate("batch", 100, priority="batch", waited_s=HANDICAP_S["batch"] / AGEING + 1)
    assert key_of(pick([patient, candidate("new", 100)], measured())) == "batch"


def test_nothing_waits_nothing_is_picked() -> None:
    assert pick([], measured()) is None


@given(
    pass_ms=st.floats(0, 100), per_token_us=st.floats(1, 10_000), per_depth_ns=st.floats(0, 100),
    depth=st.integers(0, 100_000), tokens=st.integers(64, 2000),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_predictions_fit_a_device_whose_passes_cost_something_and_whose_time_grows_with_depth(
    pass_ms: float, per_token_us: float, per_depth_ns: float, depth: int, tokens: int
) -> None:
    cost = measured(per_token_us * 1e-6, per_depth_ns * 1e-9, pass_ms * 1e-3).cost
    expected = pass_ms * 1e-3 + tokens * (per_token_us * 1e-6 + per_depth_ns * 1e-9 * (depth + tokens / 2))
    assert cost.pass_time_s(depth, tokens) == pytest.approx(expected, rel=0.05)


def test_chunks_of_one_size_cannot_be_told_apart_and_are_predicted_all_the_same() -> None:
    meter = PrefillMeter()
    for _ in range(50):
        meter.observe(0, 500, 0.6)
    assert meter.cost.pass_time_s(0, 500) == pytest.approx(0.6, rel=0.01)


def test_a_device_that_becomes_slower_is_followed() -> None:
    meter = measured(1e-3)
    for _ in range(100):
        meter.observe(0, 500, 1.5)
    assert meter.cost.pass_time_s(0, 500) == pytest.approx(1.5, rel=0.07)


def test_what_one_pass_in_a_hundred_exceeds_is_known() -> None:
    assert measured().excess == pytest.approx(1.05)
    assert 1.15 < measured(noise=0.2).excess < 1.3


def test_long_stretches_take_several_passes_and_each_costs() -> None:
    cost = PrefillCost(pass_s=0.1, token_s=1e-3, pass_tokens=1000)
    assert cost.predict_s(0, 2500) == pytest.approx(0.3 + 2.5)
    assert cost.predict_s(700, 700) == 0
    assert cost.tokens_per_s == pytest.approx(1000 / 1.1)
    assert PrefillCost().predict_s(0, 100) == PrefillCost().tokens_per_s == 0


@given(budget_s=st.floats(0.05, 2), depth=st.integers(0, 100_000), per_depth_ns=st.floats(0, 100))
def test_fitting_tokens_take_the_budget(budget_s: float, depth: int, per_depth_ns: float) -> None:
    cost = PrefillCost(pass_s=0.04, token_s=1e-3, depth_s=per_depth_ns * 1e-9)
    tokens = cost.fitting_tokens(depth, budget_s)
    assert cost.pass_time_s(depth, tokens) <= budget_s * 1.001
    assert cost.pass_time_s(depth, tokens + 1) >= budget_s * 0.98


def test_nothing_fits_where_a_pass_takes_longer_by_itself() -> None:
    assert PrefillCost(pass_s=0.3, token_s=1e-3).fitting_tokens(0, 0.2) == 0


@given(share=st.floats(0.1, 0.95), depth=st.integers(0, 100_000))
def test_efficient_tokens_have_their_share_of_the_rate(share: float, depth: int) -> None:
    cost = PrefillCost(pass_s=0.3, token_s=5e-3, depth_s=1e-8)
    tokens = cost.efficient_tokens(depth, share)
    endless = 1 / (cost.token_s + cost.depth_s * depth)
    rate = tokens / (cost.pass_s + tokens * (cost.token_s + cost.depth_s * depth))
    assert share * 0.999 <= rate / endless <= share + 0.02


def size(meter: PrefillMeter, *, is_decoding: bool, depth: int = 0, decode_step_s: float = 0.01) -> int:
    return chunk_tokens(
        meter, depth=depth, is_decoding=is_decoding, decode_step_s=decode_step_s, stall_target_s=0.2, max_tokens=2048
    )


def test_chunk_and_decode_step_stay_within_the_stall_target() -> None:
    meter = measured(1e-3)
    tokens = size(meter, is_decoding=True)
    assert 0.1 < meter.cost.pass_time_s(0, tokens) <= 0.2 - 0.01


def test_chunks_are_shorter_where_their_time_is_uncertain() -> None:
    tokens = size(measured(1e-3, noise=0.3), is_decoding=True)
    assert tokens * 1e-3 * 1.25 + 0.01 <= 0.2


def test_where_the_target_cannot_be_met_chunks_are_worth_their_pass() -> None:
    slow = measured(5e-3, pass_s=0.25)
    tokens = size(slow, is_decoding=True)
    assert tokens / slow.cost.pass_time_s(0, tokens) >= 0.5 * 200
    assert tokens <= 64
    assert size(measured(1e-2), is_decoding=True) == 32


def test_streams_have_their_share_of_the_time_between_chunks() -> None:
    share, steps = DecodeShare(), 0
    share.chunk(0.6)
    while not share.is_paid:
        share.step(0.02)
        steps += 1
    assert steps * 0.02 / (steps * 0.02 + 0.6) == pytest.approx(DECODE_SHARE, abs=0.02)
    share.chunk(0.05)
    share.step(0.05)
    assert share.is_paid


@pytest.mark.parametrize(
    ("prompt", "streams", "owes"),
    [
        ("interactive", ["batch", "side", "subagent"], False),
        ("interactive", ["batch", "interactive"], True),
        ("subagent", ["batch", "interactive"], True),
        ("batch", ["batch"], True),
        ("batch", [], False),
    ],
)
def test_a_prompt_leaves_a_share_to_streams_of_its_class_and_those_before_it(
    prompt: Priority, streams: list[Priority], owes: bool
) -> None:
    assert owes_share(prompt, streams) is owes


def test_chunks_shrink_with_depth() -> None:
    meter = measured(1e-4, 1e-8)
    assert size(meter, is_decoding=True, depth=80_000) < size(meter, is_decoding=True) / 2


def test_idle_chunks_are_larger_but_bounded_in_time_and_tokens() -> None:
    assert size(measured(1e-3), is_decoding=False) > 2 * size(measured(1e-3), is_decoding=True)
    assert measured(1e-2).cost.pass_time_s(0, size(measured(1e-2), is_decoding=False)) <= 1.0
    fast = measured(1e-6)
    fast.observe(0, 2048, 2e-3)
    assert size(fast, is_decoding=False) == 2048


def test_slow_decode_steps_still_leave_room_for_prefill() -> None:
    assert size(measured(1e-3), is_decoding=True, decode_step_s=5.0) >= 32


def test_first_chunk_is_modest_and_growth_is_gradual() -> None:
    meter = PrefillMeter()
    assert size(meter, is_decoding=False) == 256
    assert size(meter, is_decoding=True) == 32
    meter.observe(0, 256, 1e-4)
    assert size(meter, is_decoding=True) == 512


def test_pieces_too_short_to_tell_are_not_learned_from() -> None:
    meter = PrefillMeter()
    meter.observe(0, 3, 1.0)
    assert not meter.cost.is_known


COST = StepCost(pass_s=1e-3, token_s=1e-6, stall_s=2e-3)


def group(
    lengths: list[tuple[int, int]],
    length: int,
    *,
    free_bytes: int = 1 << 40,
    long_bytes: int = 1 << 40,
    cost: StepCost = COST,
    waiting: Collection[int] = (),
    waits: bool = False,
) -> int | None:
    """`waiting` are the groups that wait for the host; `waits` whether the row does."""
    shapes = [GroupShape(rows=r, longest=longest, waits=n in waiting) for n, (r, longest) in enumerate(lengths)]
    room = Room(token_bytes=1000, free_bytes=free_bytes, long_bytes=long_bytes)
    return choose_group(shapes, GroupShape(rows=1, longest=length, waits=waits), cost=cost, room=room)


def test_where_a_pass_is_cheap_a_short_row_is_not_padded_to_a_long_one() -> None:
    """Of a mixture of experts a pass reads a few of the weights."""
    dense, experts = StepCost(pass_s=30e-3, token_s=2e-7), StepCost(pass_s=3e-3, token_s=2e-7)
    assert group([(1, 60_000)], 300, cost=dense) == 0
    assert group([(1, 60_000)], 300, cost=experts) is None


def test_a_row_that_waits_for_the_host_does_not_make_others_wait_unless_a_pass_costs_more() -> None:
    assert group([(7, 500)], 500, waits=True) is None
    assert group([(7, 500)], 500, waits=True, cost=StepCost(pass_s=5e-3, token_s=1e-6, stall_s=2e-3)) == 0
    assert group([(7, 500), (1, 500)], 500, waits=True, waiting={1}) == 1
    assert group([(1, 500)], 500, waiting={0}) is None
    assert group([(1, 500), (7, 500)], 500, waiting={0}) == 1


def test_what_a_pass_and_a_token_cost_is_learned_from_steps() -> None:
    meter, dice = StepMeter(weight_bytes=17 << 30, token_bytes=98_304), random.Random(1)
    for _ in range(300):
        rows, longest, groups = dice.randint(1, 8), dice.randint(100, 20_000), dice.randint(1, 2)
        tokens = rows * longest
        seconds = groups * 3e-3 + rows * 5e-4 + tokens * 2e-7
        meter.observe(groups=groups, rows=rows, tokens=tokens, seconds=seconds * dice.uniform(0.95, 1.05))
    assert meter.cost.pass_s == pytest.approx(3e-3, rel=0.3)
    assert meter.cost.token_s == pytest.approx(2e-7, rel=0.1)
    meter.observe_stall(1e-3)
    meter.observe_stall(2e-3)
    assert meter.cost.stall_s == pytest.approx(1.1e-3)


def test_before_any_step_a_pass_counts_as_half_of_the_weights() -> None:
    cost = StepMeter(weight_bytes=10 << 30, token_bytes=100_000).cost
    assert cost.pass_s / cost.token_s == pytest.approx((5 << 30) / 100_000, rel=0.02)


def test_sequences_of_like_length_share_a_pass() -> None:
    assert group([(3, 5000)], 4500) == 0


def test_a_short_sequence_is_not_padded_to_a_long_one_nor_long_ones_grown() -> None:
    assert group([(1, 20_000)], 300) is None
    assert group([(8, 300)], 20_000) is None


def test_the_group_with_least_padding_is_joined() -> None:
    assert group([(2, 5000), (2, 5600), (1, 9000)], 5500) == 1


def test_no_group_is_joined_that_would_not_fit_in_memory() -> None:
    assert group([(3, 5000)], 5000, free_bytes=19_000_000) is None


def test_long_rows_stay_alone_because_joining_copies_them() -> None:
    assert group([(1, 5000)], 5000, long_bytes=4_900_000) is None
    assert group([(1, 5000), (1, 400)], 300, long_bytes=4_900_000) == 1


def test_without_groups_a_sequence_starts_its_own() -> None:
    assert group([], 100) is None
