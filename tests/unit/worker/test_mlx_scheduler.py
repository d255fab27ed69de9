"""The scheduler's decisions: order, sizes of chunks, groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.request import Priority
from worker.engines.mlx.decode.grouping import GroupShape, choose_group
from worker.engines.mlx.prefill.scheduler import (
    AGEING,
    HANDICAP_S,
    Candidate,
    PrefillCost,
    chunk_tokens,
    pick,
)


def measured(per_token_s: float = 1e-3, per_depth_s: float = 0.0) -> PrefillCost:
    """A cost that has seen a few chunks of a device with these properties."""
    cost = PrefillCost()
    for start in range(0, 20_000, 1000):
        cost.observe(start, start + 500, 500 * (per_token_s + per_depth_s * (start + 250)))
    return cost


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


@given(per_token_us=st.floats(1, 10_000), per_depth_ns=st.floats(0, 100), depth=st.integers(0, 100_000))
def test_predictions_fit_a_device_whose_time_grows_with_depth(
    per_token_us: float, per_depth_ns: float, depth: int
) -> None:
    cost = measured(per_token_us * 1e-6, per_depth_ns * 1e-9)
    expected = 700 * (per_token_us * 1e-6 + per_depth_ns * 1e-9 * (depth + 350))
    assert cost.predict_s(depth, depth + 700) == pytest.approx(expected, rel=0.05)


@given(budget_s=st.floats(0.01, 2), depth=st.integers(0, 100_000), per_depth_ns=st.floats(0, 100))
def test_fitting_tokens_take_the_budget(budget_s: float, depth: int, per_depth_ns: float) -> None:
    cost = measured(1e-3, per_depth_ns * 1e-9)
    tokens = cost.fitting_tokens(depth, budget_s)
    assert cost.predict_s(depth, depth + tokens) <= budget_s * 1.001
    assert cost.predict_s(depth, depth + tokens + 1) >= budget_s * 0.98


def size(cost: PrefillCost, *, is_decoding: bool, depth: int = 0, decode_step_s: float = 0.01) -> int:
    return chunk_tokens(
        cost, depth=depth, is_decoding=is_decoding, decode_step_s=decode_step_s, stall_target_s=0.2, max_tokens=2048
    )


def test_chunk_and_decode_step_stay_within_the_stall_target() -> None:
    cost = measured(1e-3)
    tokens = size(cost, is_decoding=True)
    assert 0.1 < cost.predict_s(0, tokens) <= 0.2 - 0.01


def test_chunks_shrink_with_depth() -> None:
    cost = measured(1e-4, 1e-8)
    assert size(cost, is_decoding=True, depth=80_000) < size(cost, is_decoding=True) / 2


def test_idle_chunks_are_larger_but_bounded_in_time_and_tokens() -> None:
    assert size(measured(1e-3), is_decoding=False) > 2 * size(measured(1e-3), is_decoding=True)
    assert measured(1e-2).predict_s(0, size(measured(1e-2), is_decoding=False)) <= 1.0
    fast = measured(1e-6)
    fast.observe(0, 2048, 2e-3)
    assert size(fast, is_decoding=False) == 2048


def test_slow_decode_steps_still_leave_room_for_prefill() -> None:
    assert size(measured(1e-3), is_decoding=True, decode_step_s=5.0) >= 32


def test_first_chunk_is_modest_and_growth_is_gradual() -> None:
    cost = PrefillCost()
    assert size(cost, is_decoding=True) == 256
    cost.observe(0, 256, 1e-4)
    assert size(cost, is_decoding=True) == 512


def test_pieces_too_short_to_tell_are_not_learned_from() -> None:
    cost = PrefillCost()
    cost.observe(0, 3, 1.0)
    assert cost.tokens_per_s == 0


def group(
    lengths: list[tuple[int, int]], length: int, *, free_bytes: int = 1 << 40, long_bytes: int = 1 << 40
) -> int | None:
    shapes = [GroupShape(rows=rows, longest=longest) for rows, longest in lengths]
    return choose_group(
        shapes, length, token_bytes=1000, pass_bytes=1_000_000, free_bytes=free_bytes, long_bytes=long_bytes
    )


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
