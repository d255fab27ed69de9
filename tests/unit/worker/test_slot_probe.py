"""How many requests a server runs side by side. The servers here are generators that take turns: what a real one's
buffers do to the order is left to the servers that are tried by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import OverloadedError
from shared.remotes import parse_remotes
from shared.request import GenerateRequest
from tests.support.asked import Asked
from tests.support.processes import wait_until
from tests.support.rude_upstream import GOOD, Line, RudeUpstream, serving_rudely
from worker.engines.remote import probing
from worker.engines.remote.probing import SlotProbe, may_probe, most_at_once, probe
from worker.engines.remote.source import RemoteSource


class Server:
    """Of `slots` at once, each answer of `tokens`, in turns."""

    def __init__(self, slots: int, tokens: int = 24) -> None:
        self.asked = 0
        self._places = asyncio.Semaphore(slots)
        self._tokens = tokens

    async def stream(self, request: GenerateRequest) -> AsyncIterator[object]:
        self.asked += 1
        async with self._places:
            for token in range(self._tokens):
                await asyncio.sleep(0)
                yield token


@pytest.mark.parametrize(
    ("slots", "found", "asked"), [(1, 1, 4), (2, 2, 4), (3, 3, 4), (4, 4, 12), (6, 6, 12), (99, 8, 12)]
)
def test_as_many_are_found_as_run_and_few_are_asked(slots: int, found: int, asked: int) -> None:
    async def measured() -> tuple[int, int]:
        server = Server(slots)
        return await probe(server.stream), server.asked

    assert asyncio.run(measured()) == (found, asked)


def test_answers_of_one_piece_tell_nothing() -> None:
    async def measured() -> int:
        return await probe(Server(8, tokens=1).stream)

    assert asyncio.run(measured()) == 1


@pytest.mark.parametrize(
    ("places", "most"),
    [
        ([], 1),
        ([[0, 1, 2, 3], [4, 5, 6, 7]], 1),
        ([[0, 1, 2, 4], [3, 5, 6, 7]], 1),  # read together where they meet
        ([[0, 2, 4, 6], [1, 3, 5, 7]], 2),
        ([[0, 9], [1, 8]], 1),
    ],
)
def test_middles_that_lie_over_one_another_count(places: list[list[int]], most: int) -> None:
    assert most_at_once(places) == most


@pytest.mark.parametrize(
    ("entry", "may"),
    [
        ({"url": "http://127.0.0.1:1"}, True),
        ({"url": "http://localhost:1"}, True),
        ({"url": "http://[::1]:1"}, True),
        ({"url": "http://192.168.1.7:1"}, True),
        ({"url": "http://studio.local:1"}, True),
        ({"url": "https://api.example.com"}, False),
        ({"url": "http://8.8.8.8:1"}, False),
        ({"url": "http://127.0.0.1:1", "key": "k"}, False),
        ({"url": "http://127.0.0.1:1", "slots": 2}, False),
        ({"url": "http://127.0.0.1:1", "probe": False}, False),
        ({"url": "https://api.example.com", "key": "k", "probe": True}, True),
    ],
)
def test_nobodys_money_is_spent_unasked(entry: dict[str, Any], may: bool) -> None:
    (remote,) = parse_remotes({"remotes": [{"id": "far", **entry}]})
    assert may_probe(remote, has_key=bool(remote.key)) == may


def test_it_waits_until_nobody_asks_and_gives_up_after_a_few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_IDLE_S", 0.02)
    monkeypatch.setattr(probing, "_LOOK_S", 0.01)
    looks = iter([False] * 5)

    async def tried(server: Any, *, is_told: bool = False) -> SlotProbe:
        slots = SlotProbe("far", server, is_idle=lambda: next(looks, True), is_told=lambda: is_told)
        slots.start()
        assert slots._task is not None
        await slots._task
        await slots.close()
        return slots

    calls = 0

    async def busy(request: GenerateRequest) -> AsyncIterator[object]:
        nonlocal calls
        calls += 1
        raise OverloadedError("busy")
        yield

    async def scenario() -> None:
        assert (await tried(Server(4).stream)).slots == 4
        assert (await tried(busy)).slots == 0
        assert calls == 3 * 4
        assert (await tried(busy, is_told=True)).slots == 0
        assert calls == 3 * 4

    asyncio.run(scenario())


def test_what_was_found_is_the_engines_capacity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests that wait for one another are both answered."""

    async def found(stream: Any) -> int:
        return 2

    monkeypatch.setattr(probing, "probe", found)
    monkeypatch.setattr(probing, "_IDLE_S", 0.02)
    monkeypatch.setattr(probing, "_LOOK_S", 0.01)
    asking: list[Line] = []

    def together(line: Line) -> None:
        asking.append(line)
        wait_until(lambda: len(asking) == 2, "both are asked")
        line.say(GOOD)

    with serving_rudely(RudeUpstream(together)) as url:
        (tmp_path / "remotes.json").write_text(
            json.dumps({"remotes": [{"id": "far", "url": url, "profile": "openai"}]})
        )
        (remote,) = parse_remotes(json.loads((tmp_path / "remotes.json").read_text()))
        asked = Asked(RemoteSource(remote.spec, Settings(state_dir=tmp_path, config_dir=tmp_path)))
        try:
            assert asked.info.capacity == 1
            wait_until(lambda: asked.engine.stats().capacity == 2, "the slots were found")
            keys = [asked.submit(GenerateRequest(id=key, model="far", messages=())) for key in ("a", "b")]
            assert [asked.wait_end(key).reason for key in keys] == ["stop", "stop"]
        finally:
            assert asked.engine.unload(10)
