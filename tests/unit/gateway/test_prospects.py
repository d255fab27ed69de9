"""Where a first token comes soonest, and when a conversation stays at home all the same."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dispatch.explanation import explain
from gateway.dispatch.facts import Facts, Home, Known, Lent, Pending, Placed, Sight
from gateway.dispatch.place import place
from shared.notes import Note
from shared.registry import Fleet, WorkerLease
from shared.request import Priority
from tests.support.fleet import lease

PER_BYTE = 0.25


def mac(name: str, rate: float = 1000.0, **fields: Any) -> WorkerLease:
    """Prefills so many tokens a second."""
    known = {"service_s": 1.0, "prefill_token_s": 1 / rate, "tokens_per_byte": PER_BYTE, "context_tokens": 200_000}
    return lease("m", worker=name, **known | fields)


def waits(seconds: float) -> tuple[float, ...]:
    return (seconds, 0.0, 0.0, 0.0)


def knows(tokens: int, **fields: Any) -> Sight:
    return Sight(memory=Known(tokens, int(tokens / PER_BYTE)), **fields)


def placed(
    *workers: WorkerLease,
    tokens: int = 10_000,
    sights: dict[str, Sight] | None = None,
    home: Home | None = None,
    priority: Priority = "interactive",
    lent: tuple[Lent, ...] = (),
    **fields: Any,
) -> Placed:
    facts = Facts(
        request_id="r",
        model="m",
        priority=priority,
        may_wait_s=1e9,
        max_waiting=1000,
        text_bytes=int(tokens / PER_BYTE),
        flow=fields.pop("flow", "mine"),
        home=home,
        now_s=fields.pop("now_s", 1000.0),
        **fields,
    )
    decided = place(Fleet(workers=workers), Pending(sights=sights or {}, lent=lent), facts)
    assert isinstance(decided, Placed)
    return decided


def test_a_new_prompt_goes_to_the_faster_mac_and_a_known_one_to_the_mac_that_knows_it() -> None:
    slow, fast = mac("slow", 500), mac("fast", 2000)
    assert placed(slow, fast).worker == "fast"
    assert placed(slow, fast, sights={"slow": knows(9_500)}).worker == "slow"
    assert placed(slow, fast, sights={"slow": knows(2_000)}).worker == "fast", "a match by itself is worth nothing"


def test_what_is_predicted_is_said_in_seconds_and_tokens() -> None:
    decided = placed(mac("a", waiting_s=waits(3.0)), tokens=10_000, sights={"a": knows(8_000)})
    prospect = decided.prospect
    assert prospect is not None
    assert (prospect.cached_tokens, prospect.prompt_tokens, prospect.source) == (8_000, 10_000, "memory")
    assert prospect.own_s == pytest.approx(2.0)
    assert prospect.first_s == pytest.approx(5.0)


def test_a_prefix_on_disk_counts_with_the_time_to_read_it() -> None:
    on_disk = Sight(disk=Known(9_000, int(9_000 / PER_BYTE)))
    quick, slow = mac("a", restore_tokens_per_s=20_000), mac("a", restore_tokens_per_s=100)
    assert placed(quick, sights={"a": on_disk}).prospect.own_s == pytest.approx(1.45)  # type: ignore[union-attr]
    assert placed(slow, sights={"a": on_disk}).prospect.source == "", "computing is sooner"  # type: ignore[union-attr]


def test_predictions_are_corrected_as_the_worker_has_learned() -> None:
    honest, late = mac("a", 1000), mac("b", 1100, prefill_factor=2.0)
    assert placed(honest, late).worker == "a"
    busy = mac("b", 1100, held=(1, 0, 0, 0), beside_factor=2.0)
    assert placed(honest, busy).worker == "a", "streams that decode slow a prefill down"


def test_what_was_just_placed_is_ahead_before_any_lease_shows_it() -> None:
    notes = {"x-1": Note(lane="interactive", prefill_s=8.0, score=900.0)}
    waiting = mac("a", queued=(1, 0, 0, 0))
    assert placed(waiting, mac("b", 900), sights={"a": Sight(version=1, notes=notes)}).worker == "b"
    assert placed(waiting, sights={"a": Sight(version=7, notes=notes)}).seen == 7


def test_a_burst_with_one_head_follows_whoever_is_about_to_compute_it() -> None:
    """The head is computed once; whoever begins elsewhere computes it again."""
    head = Known(0, int(9_000 / PER_BYTE))
    notes = {"x-1": Note(lane="interactive", prefill_s=0.5, score=900.0)}
    sights = {"a": Sight(version=1, notes=notes, soon=head)}
    assert placed(mac("a", queued=(1, 0, 0, 0)), mac("b"), sights=sights).worker == "a"


def test_of_equal_macs_the_one_least_lately_given_a_new_conversation_takes_it() -> None:
    sights = {"a": Sight(cold_s=900.0), "b": Sight(cold_s=800.0), "c": Sight(cold_s=850.0)}
    assert placed(mac("a"), mac("b"), mac("c"), sights=sights).worker == "b"


def test_a_user_only_breaks_ties() -> None:
    assert placed(mac("a"), mac("b"), user_worker="b").worker == "b"
    assert placed(mac("a", 2000), mac("b", 500), user_worker="b").worker == "a"


# --- home -----------------------------------------------------------------------------------------------------------

AT_A = Home("a", turn=9)


@pytest.mark.parametrize(
    ("home_waits_s", "worker"),
    [(0.0, "a"), (1.9, "a"), (3.0, "a"), (60.0, "b")],
    ids=["nothing", "less than two seconds", "less than twice", "a gain"],
)
def test_a_conversation_stays_at_home_unless_another_is_twice_as_good_and_two_seconds_sooner(
    home_waits_s: float, worker: str
) -> None:
    sights = {"a": knows(9_500)}
    decided = placed(mac("a", waiting_s=waits(home_waits_s)), mac("b", 5000), home=AT_A, sights=sights)
    assert decided.worker == worker
    assert decided.reason.startswith("moves: first token after 2.0 s instead of 60.5 s" if worker == "b" else "home")


def test_it_does_not_move_again_within_three_turns() -> None:
    late, other = mac("a", waiting_s=waits(60.0)), mac("b", 5000)
    assert placed(late, other, home=Home("a", turn=9, moved=7)).worker == "a"
    assert placed(late, other, home=Home("a", turn=10, moved=7)).worker == "b"


def test_a_home_that_is_gone_or_has_failed_the_request_holds_nobody() -> None:
    assert placed(mac("b"), home=AT_A).worker == "b"
    assert placed(mac("a"), mac("b"), home=AT_A, avoid=frozenset(("a",))).worker == "b"


def test_a_prompt_that_has_no_room_on_a_mac_goes_to_one_where_it_has() -> None:
    small, large = mac("a", 5000, context_tokens=8_000), mac("b", 500)
    assert placed(small, large, tokens=10_000).worker == "b"
    assert placed(small, large, tokens=5_000).worker == "a"
    assert placed(small, tokens=50_000).worker == "a", "it says how long the prompt is"


# --- fairness -------------------------------------------------------------------------------------------------------


def test_a_flow_that_has_much_waiting_comes_behind_another_that_has_nothing() -> None:
    """A storm of one session does not starve another's."""
    storm = {f"s{n}-1": Note(lane="interactive", prefill_s=2.0, score=1000.0 + 2 * n, flow="storm") for n in range(10)}
    worker = mac("a", queued=(10, 0, 0, 0))
    sights = {"a": Sight(version=10, notes=storm)}
    more = placed(worker, sights=sights, tokens=2_000, flow="storm", now_s=1001.0)
    other = placed(worker, sights=sights, tokens=2_000, flow="other", now_s=1001.0)
    assert more.note.score > max(note.score for note in storm.values())
    assert sum(note.score < other.note.score for note in storm.values()) <= 2
    assert (other.wait_s or 0) < 5 < (more.wait_s or 0)


def test_short_comes_before_long_and_waiting_wins_in_the_end() -> None:
    worker, long = mac("a", queued=(1, 0, 0, 0)), Note(lane="interactive", prefill_s=60.0, score=1060.0, flow="long")
    sights = {"a": Sight(notes={"x-1": long})}
    assert placed(worker, sights=sights, tokens=1_000, now_s=1001.0).note.score < long.score
    assert placed(worker, sights=sights, tokens=1_000, now_s=1070.0).note.score > long.score


# -- what lies in another host's files -------------------------------------------------------------------------------

KEPT_BYTES = 100_000.0  # a token


def lends(tokens: int, host: str = "gone") -> tuple[Lent, ...]:
    return (Lent(host, f"{host}:8765", Known(tokens, int(tokens / PER_BYTE))),)


def reads(rate: float, *, link: float | None, name: str = "a.m.1") -> WorkerLease:
    """A worker that computes at `rate` tokens a second, and reads at `link` bytes a second, where it knows that."""
    known = {} if link is None else {"gone": link}
    return mac(name, rate, kept_bytes_per_token=KEPT_BYTES, link_bytes_per_s=known)


@pytest.mark.parametrize(
    ("rate", "link", "is_fetched"),
    [
        (300, 50e6, True),  # 500 tokens a second come over Wi-Fi
        (1000, 50e6, False),
        (1000, 125e6, True),
        (2000, 125e6, False),
        (2000, 1.25e9, True),
        (300, None, True),  # as if by Wi-Fi, until it is measured
        (1000, None, False),
        (300, 0.0, False),  # it could not be reached lately
    ],
)
def test_a_prefix_in_another_hosts_files_is_fetched_where_that_is_sooner_than_to_compute_it(
    rate: float, link: float | None, is_fetched: bool
) -> None:
    prospect = placed(reads(rate, link=link), lent=lends(9_000)).prospect
    assert prospect is not None
    assert (prospect.lender is not None) is is_fetched
    if is_fetched:
        assert prospect.cached_tokens == 9_000
        assert prospect.fetch_s == pytest.approx(9_000 * KEPT_BYTES / (link or 50e6), abs=0.1)
        assert prospect.first_s == pytest.approx(prospect.fetch_s + 1_000 / rate, abs=0.1)
    else:
        assert prospect.first_s == pytest.approx(10_000 / rate)


def test_a_host_does_not_fetch_from_itself_nor_what_it_has_in_memory() -> None:
    assert placed(reads(300, link=1e9, name="gone.m.1"), lent=lends(9_000)).prospect.lender is None  # type: ignore[union-attr]
    known = placed(reads(300, link=1e9), lent=lends(9_000), sights={"a.m.1": knows(9_000)}).prospect
    assert known is not None
    assert (known.lender, known.source) == (None, "memory")


def test_while_no_prefill_was_measured_nothing_is_fetched() -> None:
    worker = mac("a.m.1", prefill_token_s=0.0, kept_bytes_per_token=KEPT_BYTES)
    assert placed(worker, lent=lends(9_000)).prospect.lender is None  # type: ignore[union-attr]


def test_a_conversation_goes_where_its_files_can_be_fetched_soonest_and_the_reason_says_so() -> None:
    near, far = reads(300, link=1e9, name="near.m.1"), reads(300, link=20e6, name="far.m.1")
    decided = placed(near, far, lent=lends(9_000))
    assert decided.worker == "near.m.1"
    assert decided.reason == "fetches 9000 tokens from gone"
    assert explain(decided).count(b"files of gone") == 1


def test_a_worker_that_has_it_in_memory_comes_before_one_that_would_fetch_it() -> None:
    """They are equally soon, and the other is idle."""
    has, fetches = mac("has.m.1", 300, held=(1, 0, 0, 0), capacity=4), reads(300, link=1e10)
    assert placed(has, fetches, lent=lends(9_000), sights={"has.m.1": knows(9_000)}).worker == "has.m.1"


def test_a_link_that_a_worker_has_not_measured_is_named_until_it_is() -> None:
    new = placed(reads(1000, link=None), lent=lends(0)).prospect
    old = placed(reads(1000, link=1e9), lent=lends(0)).prospect
    assert new is not None
    assert old is not None
    assert new.unmeasured is not None
    assert old.unmeasured is None
