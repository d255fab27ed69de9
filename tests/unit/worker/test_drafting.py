"""What is guessed of a text that repeats itself, and when guessing is worth it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.mlx.decode.drafting import MOST_DRAFTED, Draft, Lookup, PassSeconds, Payoff


def drafted(lookup: Lookup, most: int = MOST_DRAFTED) -> Draft | None:
    """The draft once the whole text was read."""
    for _ in range(1000):
        draft = lookup.draft(most)
        if draft is not None:
            return draft
    return None


def agreement(text: list[int], place: int) -> int:
    common = 0
    while common < min(place, 32) and text[place - 1 - common] == text[-1 - common]:
        common += 1
    return common


# -- lookup -------------------------------------------------------------------------------------------------------


def test_a_repeated_text_goes_on_as_it_did_before() -> None:
    text = list(range(100, 150))
    assert drafted(Lookup([*text, 1, 2, *text[10:20]]), 8) == Draft(tokens=tuple(text[20:28]), matched=10)


def test_the_longest_agreement_wins_and_then_the_latest() -> None:
    early, late = [1, 2, 3, 4, 5, 50, 51], [9, 2, 3, 4, 5, 60, 61]
    assert drafted(Lookup([*early, *late, 1, 2, 3, 4, 5]), 2) == Draft(tokens=(50, 51), matched=5)
    assert drafted(Lookup([*early, *late, 8, 3, 4, 5]), 2) == Draft(tokens=(60, 61), matched=3)


def test_a_loop_is_drafted_beyond_the_end_of_the_text() -> None:
    draft = drafted(Lookup([7, 8, 9, 7, 8, 9, 7]), 8)
    assert draft is not None
    assert draft.tokens == (8, 9, 7, 8, 9, 7, 8, 9)


@pytest.mark.parametrize("text", [[], [1], [1, 2, 3], [1, 2, 3, 4, 1, 2], list(range(50))])
def test_without_three_tokens_that_agree_nothing_is_guessed(text: list[int]) -> None:
    assert drafted(Lookup(text)) is None


def test_what_is_said_next_can_be_repeated_at_once() -> None:
    lookup = Lookup([1, 2, 3])
    assert lookup.draft(4) is None
    lookup.extend([4, 5, 1, 2, 3])
    assert lookup.draft(2) == Draft(tokens=(4, 5), matched=3)
    lookup.extend([4])
    assert lookup.draft(2) == Draft(tokens=(5, 1), matched=4)


def test_a_long_text_is_read_piece_by_piece() -> None:
    text = random.Random(0).sample(range(100_000), 40_000)
    lookup = Lookup([*text, *text[1000:1010]])
    calls = 1
    while (draft := lookup.draft(4)) is None:
        calls += 1
    assert 5 <= calls <= 40
    assert draft == Draft(tokens=tuple(text[1010:1014]), matched=10)


def test_behind_a_changed_token_the_repeated_text_is_expected_to_go_on() -> None:
    text = list(range(100, 150))
    lookup = Lookup([*text, 1, *text[:10]])
    assert drafted(lookup, 4) == Draft(tokens=(110, 111, 112, 113), matched=10)
    lookup.extend([7])  # instead of 110
    assert lookup.draft(4) == Draft(tokens=(111, 112, 113, 114), matched=0)
    lookup.extend([111])
    assert lookup.draft(2) == Draft(tokens=(112, 113), matched=1)
    lookup.extend([115])  # two tokens were left out
    assert lookup.draft(2) == Draft(tokens=(116, 117), matched=1)
    lookup.extend([8, 9])  # one was put in
    lookup.extend([117])
    assert lookup.draft(2) == Draft(tokens=(118, 119), matched=1)


def test_an_edited_text_is_mostly_drafted() -> None:
    numbers = random.Random(4)
    text = [numbers.randrange(2000) for _ in range(3000)]
    edit = [token if numbers.random() > 0.05 else 5000 for token in text]
    lookup, said, passes = Lookup([*text, 5001, 5002, 5003]), 0, 0
    drafted(lookup, 1)
    while said < len(edit):
        draft = lookup.draft(MOST_DRAFTED)
        right = 0
        while (
            draft is not None and edit[said + right : said + right + 1] == list(draft.tokens[right : right + 1]) != []
        ):
            right += 1
        lookup.extend(edit[said : said + right + 1])
        said += right + 1
        passes += 1
    assert len(edit) / passes > 8


def test_a_short_agreement_makes_no_text_a_repeated_one() -> None:
    text = list(range(100, 150))
    lookup = Lookup([*text, 1, *text[:5]])
    assert drafted(lookup, 1) is not None
    lookup.extend([7])
    assert lookup.draft(4) is None


@given(text=st.lists(st.integers(0, 4), max_size=60), more=st.lists(st.integers(0, 4), max_size=60))
def test_every_draft_is_what_followed_the_longest_agreement(text: list[int], more: list[int]) -> None:
    lookup = Lookup(text)
    for token in more:
        lookup.draft(3)
        lookup.extend([token])
    text = [*text, *more]
    agreements = [agreement(text, place) for place in range(len(text))]
    draft = lookup.draft(3)
    if max(agreements, default=0) < 3:
        assert draft is None or draft.matched in agreements
        return
    assert draft is not None
    assert draft.matched in agreements
    if sum(common >= 3 for common in agreements) <= 12:
        assert draft.matched == max(agreements)
    endless = list(text)
    place = max(place for place, common in enumerate(agreements) if common == draft.matched)
    for offset in range(3):
        endless.append(endless[place + offset])
    assert draft.tokens == tuple(endless[len(text) :])


# -- payoff -------------------------------------------------------------------------------------------------------


class Device:
    """A machine whose passes take `seconds(drafted)`, and a text whose drafts are right with probability `right`."""

    def __init__(self, seconds: Callable[[int], float], right: float, *, noise: float = 0.1) -> None:
        self.seconds = seconds
        self.right = right
        self.noise = noise
        self.random = random.Random(1)
        self.payoff = Payoff()
        self.sizes: list[int] = []

    def run(self, tokens: int) -> float:
        """Say so many tokens; how many times faster that was than without drafts."""
        said, took_s = 0, 0.0
        self.sizes.clear()
        while said < tokens:
            size, _ = self.payoff.choose(6, MOST_DRAFTED)
            seconds = self.seconds(size) * self.random.uniform(1 - self.noise, 1 + self.noise)
            self.sizes.append(size)
            if size == 0:
                self.payoff.skip(6)
                self.payoff.observe_plain(seconds)
                said += 1
            else:
                accepted = next((n for n in range(size) if self.random.random() > self.right), size)
                self.payoff.observe(matched=6, drafted=size, accepted=accepted, seconds=seconds)
                said += accepted + 1
            took_s += seconds
        return said * self.seconds(0) / took_s


def by_weights(drafted: int) -> float:
    """A GPU that reads its weights in every pass."""
    return 0.02 + 0.0005 * drafted


def by_tokens(drafted: int) -> float:
    """A CPU that computes each token anew."""
    return 0.02 * (drafted + 1)


def test_where_passes_cost_the_same_right_drafts_pay_many_times() -> None:
    device = Device(by_weights, right=0.95)
    assert device.run(2000) > 5
    assert max(device.sizes) == MOST_DRAFTED


def test_where_every_token_costs_drafting_is_soon_given_up() -> None:
    device = Device(by_tokens, right=0.9)
    device.run(200)
    assert device.run(5000) > 0.98
    assert sum(size > 0 for size in device.sizes) < 0.01 * len(device.sizes)


def test_wrong_drafts_are_soon_given_up() -> None:
    device = Device(by_weights, right=0.0)
    assert device.run(200) > 0.9
    assert device.run(5000) > 0.99


def test_drafts_that_are_sometimes_right_are_short() -> None:
    device = Device(lambda drafted: 0.02 + 0.002 * drafted, right=0.5)
    assert device.run(3000) > 1.2
    assert sorted(device.sizes)[len(device.sizes) // 2] <= 4


def test_a_text_that_begins_to_repeat_itself_is_noticed() -> None:
    device = Device(by_weights, right=0.0)
    device.run(3000)
    device.right = 0.95
    device.run(2500)
    assert device.run(1000) > 5


def test_a_device_that_becomes_slow_is_noticed() -> None:
    device = Device(by_weights, right=0.95)
    device.run(1000)
    device.seconds = by_tokens
    device.run(1000)
    assert device.run(3000) > 0.95


def test_nothing_is_drafted_before_it_is_known_how_fast_it_goes_without() -> None:
    payoff = Payoff()
    assert payoff.choose(8, MOST_DRAFTED)[0] == 0
    for _ in range(3):
        payoff.observe_plain(0.02)
    assert 0 < payoff.choose(8, MOST_DRAFTED)[0] <= 4
    assert payoff.choose(8, 0)[0] == 0


def test_now_and_then_it_is_measured_again_how_fast_it_goes_without() -> None:
    device = Device(by_weights, right=0.99)
    device.run(20_000)
    assert 0.002 < device.sizes.count(0) / len(device.sizes) < 0.05


def test_short_and_long_agreements_are_judged_apart() -> None:
    payoff = Payoff()
    for _ in range(3):
        payoff.observe_plain(0.02)
    for _ in range(20):
        payoff.observe(matched=3, drafted=4, accepted=0, seconds=0.022)
        payoff.observe(matched=32, drafted=4, accepted=4, seconds=0.022)
    assert payoff.choose(3, 8)[0] == 0
    assert payoff.choose(32, 8)[0] == 8
    assert (payoff.passes, payoff.drafted, payoff.accepted) == (40, 160, 80)


def test_seconds_of_sizes_never_seen_lie_between_their_neighbours() -> None:
    seconds = PassSeconds()
    seconds.observe(0, 1.0)
    assert seconds.predict(8) == 1.0
    for value in (2.0, 50.0, 2.0):  # one pass that something else delayed
        seconds.observe(4, value)
    assert seconds.predict(4) == 2.0
    assert seconds.predict(2) == 1.5
    assert seconds.predict(8) == 3.0
