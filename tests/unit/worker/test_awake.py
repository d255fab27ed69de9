"""A Mac is kept awake while something is answered, and for a while after it. `sleep` stands in for `caffeinate`."""

from __future__ import annotations

import asyncio

import pytest

from worker.host.awake import Awake, build_awake, keep_awake

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


def test_a_machine_without_work_or_hold_is_not_looked_after() -> None:
    async def scenario(patch: pytest.MonkeyPatch) -> None:
        stopping, noted = asyncio.Event(), list[bool]()
        awake = Awake(STAND_IN, after_s=0.0)
        note, is_at_work = awake.note, iter((False, False, True, False, False))

        def note_down(*, is_at_work: bool, now_s: float) -> None:
            noted.append(is_at_work)
            note(is_at_work=is_at_work, now_s=now_s)

        patch.setattr(awake, "note", note_down)

        def look() -> bool:
            at_work = next(is_at_work, None)
            if at_work is None:
                stopping.set()
            return bool(at_work)

        await keep_awake(awake, look, stopping)
        assert noted == [True, False], "its hold begins and ends"
        assert not awake.is_begun

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.host.awake._LOOK_EVERY_S", 0.01)
        asyncio.run(scenario(patch))
