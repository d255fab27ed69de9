"""A Mac is kept awake while something is answered, and for a while after it. `sleep` stands in for `caffeinate`."""

from __future__ import annotations

from worker.host.awake import Awake, build_awake

STAND_IN = ("sleep", "60")


def test_the_hold_begins_with_work_and_ends_a_while_after_it() -> None:
    awake = Awake(STAND_IN, after_s=10.0)
    awake.note(is_at_work=False, now_s=0.0)
    assert not awake.is_held
    awake.note(is_at_work=True, now_s=1.0)
    assert awake.is_held
    awake.note(is_at_work=False, now_s=10.0)
    assert awake.is_held, "the next turn comes soon"
    awake.note(is_at_work=False, now_s=11.0)
    assert not awake.is_held


def test_a_hold_that_was_ended_by_somebody_is_taken_again() -> None:
    awake = Awake(("true",))
    awake.note(is_at_work=True, now_s=0.0)
    assert awake._process is not None
    awake._process.wait(10)
    awake._command = STAND_IN
    awake.note(is_at_work=True, now_s=1.0)
    assert awake.is_held
    awake.release()
    assert not awake.is_held


def test_elsewhere_nothing_is_held() -> None:
    awake = build_awake("linux")
    awake.note(is_at_work=True, now_s=0.0)
    assert not awake.is_held
    assert build_awake("darwin")._command[:2] == ("caffeinate", "-i")
