"""What consoles listen to is looked at once and encoded once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import pytest

from gateway.admin import feeds
from gateway.admin.feeds import Feeds, Listener, Topic
from gateway.admin.requests import row
from gateway.trace.recent import MOST, Recent, bounded


class Source:
    """A topic whose state a test sets."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"n": 0}
        self.version = 0
        self.looks = 0
        self.error = ""

    def set(self, **values: Any) -> None:
        self.state, self.version = {**self.state, **values}, self.version + 1

    async def render(self) -> Mapping[str, Any]:
        self.looks += 1
        if self.error:
            raise RuntimeError(self.error)
        return self.state


def run(main: Callable[[Source, Feeds], Awaitable[None]]) -> None:
    async def running() -> None:
        source = Source()
        topic = Topic(name="t", stamp=lambda: source.version, render=source.render, every_s=0.001)
        every = Feeds([topic])
        try:
            await main(source, every)
        finally:
            await every.aclose()

    asyncio.run(running())


async def told(listener: Listener) -> list[tuple[str, Any]]:
    """Events that came since, at least one."""
    data = await listener.take(5)
    events = [each.split("\n") for each in data.decode().split("\n\n") if each]
    return [(name.removeprefix("event: "), orjson.loads(text.removeprefix("data: "))) for name, text in events]


def test_a_listener_gets_a_snapshot_and_then_numbered_patches() -> None:
    async def main(source: Source, every: Feeds) -> None:
        with every.listening(["t"]) as listener:
            [(event, first)] = await told(listener)
            assert (event, first["state"]) == ("snapshot", {"n": 0})
            source.set(n=1)
            [(event, second)] = await told(listener)
            assert (event, second["patch"], second["number"]) == ("patch", {"n": 1}, first["number"] + 1)

    run(main)


def test_ten_listeners_get_the_same_bytes_of_one_look() -> None:
    async def main(source: Source, every: Feeds) -> None:
        with every.listening(["t"]) as first:
            await first.take(5)
            others = [every.listening(["t"]) for _ in range(9)]
            listeners = [each.__enter__() for each in others]
            snapshots = [await each.take(5) for each in listeners]
            assert all(each is not None and each == snapshots[0] for each in snapshots)
            looks = source.looks
            source.set(n=5)
            patches = [await each.take(5) for each in (first, *listeners)]
            assert source.looks == looks + 1
            assert len(set(patches)) == 1
            for each in others:
                each.__exit__(None, None, None)

    run(main)


def test_nobody_is_looked_at_while_nobody_listens() -> None:
    async def main(source: Source, every: Feeds) -> None:
        with every.listening(["t"]) as listener:
            [(_, first)] = await told(listener)
        looks = source.looks
        source.set(n=7)
        await asyncio.sleep(0.02)
        assert source.looks == looks
        with every.listening(["t"]) as listener:
            [(event, again)] = await told(listener)
            assert (event, again["state"]) == ("snapshot", {"n": 7})
            assert again["number"] > first["number"], "an old patch never fits a new snapshot"

    run(main)


def test_a_listener_that_does_not_read_is_lost_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_MOST_PENDING_BYTES", 1000)

    async def main(source: Source, every: Feeds) -> None:
        with every.listening(["t"]) as slow, every.listening(["t"]) as quick:
            await quick.take(5)
            for number in range(100):
                source.set(n=number + 1, text="x" * 100)
                assert await quick.take(5)
                if slow.is_lost:
                    break
            assert slow.is_lost
            assert not quick.is_lost
            assert await slow.take(5) == b""

    run(main)


def test_a_screen_that_cannot_be_looked_at_says_so_and_goes_on_later() -> None:
    async def main(source: Source, every: Feeds) -> None:
        source.error = "broken"
        with every.listening(["t"]) as listener:
            assert await told(listener) == [("failed", {"topic": "t", "error": "broken"})]
            source.error = ""
            [(event, _)] = await told(listener)
            assert event == "snapshot"

    run(main)


def test_listeners_are_let_go_when_the_process_stops() -> None:
    async def main(_: Source, every: Feeds) -> None:
        with every.listening(["t"]) as listener:
            await listener.take(5)
            every.end()
            assert await listener.take(5) == b""
            assert listener.is_lost

    run(main)


def line(number: int, **more: Any) -> bytes:
    return orjson.dumps({"id": f"req_{number}", "at_s": number, **more})


def test_the_last_thousand_are_kept_and_those_from_before_come_first() -> None:
    recent = Recent()
    recent.note("req_5", line(5))
    recent.put_before([(f"req_{number}", line(number)) for number in (3, 4, 5)])
    ids = [orjson.loads(each)["id"] for each in recent.since(0)]
    assert ids == ["req_3", "req_4", "req_5"]
    seen = recent.count
    recent.note("req_6", line(6))
    assert [orjson.loads(each)["id"] for each in recent.since(seen)] == ["req_6"]
    for number in range(2 * MOST):
        recent.note(f"req_{number}", line(number))
    assert len(recent.since(0)) == MOST
    assert recent.since(recent.count) == []


def test_what_was_said_is_not_kept_in_memory() -> None:
    kept = bounded(line(1, body="the launch code", answer={"text": "Bobby Tables"}))
    assert orjson.loads(kept) == {"id": "req_1", "at_s": 1}
    assert len(bounded(line(1, attempts=["x" * 1000] * 1000))) < 1000


def test_a_row_says_what_is_known_and_leaves_out_the_rest() -> None:
    assert row({"id": "r", "at_s": 1.0, "route": "messages", "outcome": "overloaded", "error": "full"}) == {
        "at_s": 1.0,
        "route": "messages",
        "outcome": "overloaded",
        "error": "full",
        "asked": "",
        "attempts": 1,
        "class": "",
    }
