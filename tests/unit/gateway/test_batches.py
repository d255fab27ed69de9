"""Batches: what is kept of them, how they are run, and that each item ends once, whatever ends meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from gateway.batches import ledger as ledger_module
from gateway.batches.ledger import KEPT_S, Ledger
from gateway.batches.runner import AT_ONCE, Answered, BatchRunner
from gateway.batches.store import BatchStore
from gateway.dialects.batch_values import Batch, Ended, Item, StoredFile, Task
from gateway.dispatch.tasks import cancel_all
from shared.errors import (
    AnswerNotFoundError,
    GatewayError,
    InvalidRequestError,
    OverloadedError,
    RequestTooLargeError,
    WorkerLostError,
)
from tests.support.gateway import until, until_true

LONG_S = 4_000_000_000.0  # a time that does not come


def batch_of(batch_id: str, *, made_s: float = 1.0, expires_s: float = LONG_S) -> Batch:
    return Batch(id=batch_id, vendor="openai", path="/v1/completions", made_s=made_s, expires_s=expires_s)


def items_of(count: int) -> list[Item]:
    return [Item(custom_id=f"c{number}", body=orjson.dumps({"number": number})) for number in range(count)]


def file_of(file_id: str, **fields: object) -> StoredFile:
    known: dict[str, object] = {"name": "n", "purpose": "batch", "media_type": "text/plain", "size_bytes": 4}
    return StoredFile(id=file_id, vendor="openai", made_s=1.0, **known | fields)  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "batches.sqlite3")


def again(ledger: Ledger, tmp_path: Path) -> Ledger:
    """As the next process finds it, when this one was killed."""
    return Ledger(tmp_path / "batches.sqlite3")


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_what_was_taken_is_found_by_the_next_process(ledger: Ledger, tmp_path: Path) -> None:
    ledger.add_file(file_of("f1"), b"\x00\r\nbytes")
    ledger.add_batch(batch_of("b1"), items_of(3))
    ledger.end(ledger.waiting(1, [])[0], Ended(custom_id="", outcome="succeeded", status=200, answer=b"{}"))
    after = again(ledger, tmp_path)
    assert (after.file("f1"), after.content("f1")) == (file_of("f1"), b"\x00\r\nbytes")
    assert after.batch("b1", "openai").counts == {"succeeded": 1, "": 2}
    assert [task.number for task in after.waiting(9, [])] == [1, 2]
    assert (tmp_path / "batches.sqlite3").stat().st_mode & 0o077 == 0, "only its owner reads it"


def test_batches_take_turns_and_what_runs_is_not_given_twice(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("large", made_s=1.0), items_of(5))
    ledger.add_batch(batch_of("small", made_s=2.0), items_of(2))
    first = ledger.waiting(3, [])
    assert [task.key for task in first] == [("large", 0), ("small", 0), ("large", 1)]
    assert [task.key for task in ledger.waiting(2, [task.key for task in first])] == [("small", 1), ("large", 2)]


def test_an_item_ends_once(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("b"), items_of(1))
    (task,) = ledger.waiting(1, [])
    ledger.end(task, Ended(custom_id="", outcome="succeeded", status=200, answer=b"1"))
    ledger.end(task, Ended(custom_id="", outcome="errored", status=500, answer=b"2"))
    assert [(ended.outcome, ended.answer) for ended in ledger.ended("b")] == [("succeeded", b"1")]


def test_cancelling_ends_what_waits_and_nothing_that_has_ended(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("b"), items_of(3))
    task, *others = ledger.waiting(3, [])
    ledger.end(task, Ended(custom_id="", outcome="succeeded", status=200, answer=b"1"))
    ledger.cancel("b", 5.0)
    assert ledger.batch("b", "openai").counts == {"succeeded": 1, "canceled": 2}
    assert ledger.batch("b", "openai").cancelled_s == 5.0
    assert ledger.are_waiting([other.key for other in others]) == set()


def test_what_runs_out_of_time_expires_and_what_has_ended_is_forgotten_later(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("late", expires_s=10.0), items_of(2))
    ledger.add_batch(batch_of("early", expires_s=99.0), items_of(1))
    ledger.expire(10.0)
    assert ledger.batch("late", "openai").counts == {"expired": 2}
    assert ledger.batch("early", "openai").counts == {"": 1}
    (complete,) = ledger.complete()
    ledger.close_batch(complete, 11.0, {"output": (file_of("out", purpose="batch_output"), b"x")})
    assert ledger.batch("late", "openai").output_file == "out"
    ledger.expire(11.0 + KEPT_S + 1)
    with pytest.raises(AnswerNotFoundError):
        ledger.batch("late", "openai")
    with pytest.raises(AnswerNotFoundError):
        ledger.content("out")
    assert [task.batch for task in ledger.waiting(9, [])] == [], "its items are gone, and those of the other late"


def test_a_file_expires_when_its_client_said(ledger: Ledger) -> None:
    ledger.add_file(file_of("short", expires_s=5.0), b"x")
    ledger.add_file(file_of("long"), b"x")
    ledger.expire(6.0)
    assert [file.id for file in ledger.files()] == ["long"]


def test_all_of_a_batch_is_taken_or_nothing(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("b"), items_of(1))
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.add_batch(batch_of("b"), items_of(2))
    assert ledger.batch("b", "openai").counts == {"": 1}


def test_there_is_an_end_to_what_is_kept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MOST_BYTES", 100_000)
    ledger.add_file(file_of("f"), b"x" * 20_000)
    with pytest.raises(RequestTooLargeError, match="delete some first"):
        ledger.add_file(file_of("g"), b"x" * 90_000)


def test_pages_of_endings_are_all_of_them_in_order(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 1203
    ledger.add_batch(batch_of("b"), items_of(count))
    ledger.cancel("b", 1.0)
    assert [ended.custom_id for ended in ledger.ended("b")] == [f"c{number}" for number in range(count)]
    assert list(ledger.ended("b", ("succeeded",))) == []


def test_a_disk_that_does_not_take_it_is_told_as_passing(tmp_path: Path) -> None:
    (tmp_path / "batches.sqlite3").mkdir()

    async def main() -> None:
        store = BatchStore(tmp_path / "batches.sqlite3")
        with pytest.raises(OverloadedError, match="cannot be stored"):
            await store.call(Ledger.files)
        await store.aclose()

    asyncio.run(main())


# --- how they are run -----------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """Whoever answers: what it does of each item is said by a test."""

    do: Callable[[int, int], Awaitable[GatewayError | None]]
    asked: list[tuple[str, int]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def answer(self, task: Task) -> Answered:
        self.asked.append(task.key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            error = await self.do(task.number, self.asked.count(task.key))
        finally:
            self.at_once -= 1
        status = 200 if error is None else 400
        return Answered(status=status, request_id="r", body=task.body, error=error)

    def results(self, ledger: Ledger, batch: Batch) -> dict[str, tuple[StoredFile, bytes]]:
        return {}


Scenario = Callable[[BatchStore, Answers], Awaitable[None]]


def play(tmp_path: Path, answers: Answers, scenario: Scenario) -> None:
    async def main() -> None:
        store = BatchStore(tmp_path / "batches.sqlite3")
        runner = asyncio.create_task(BatchRunner(store, answers).run())
        try:
            await scenario(store, answers)
        finally:
            await cancel_all([runner])
            await store.aclose()

    asyncio.run(main())


async def add(store: BatchStore, count: int, batch_id: str = "b", **fields: float) -> None:
    await store.call(Ledger.add_batch, batch_of(batch_id, **fields), items_of(count))
    store.woken.set()


async def ended(store: BatchStore, batch_id: str = "b") -> list[Ended]:
    async def has_ended() -> bool:
        return (await store.call(Ledger.batch, batch_id, "openai")).ended_s is not None

    await until_true(has_ended, "the batch has ended")
    return await store.call(lambda ledger: list(ledger.ended(batch_id)))


async def at_once(number: int, tries: int) -> None:
    return None


def test_every_item_has_its_answer_and_no_more_run_than_may(tmp_path: Path) -> None:
    async def work(store: BatchStore, answers: Answers) -> None:
        await add(store, 30)
        assert [orjson.loads(one.answer)["number"] for one in await ended(store)] == list(range(30))
        assert sorted(answers.asked) == [("b", number) for number in range(30)], "each once"
        assert answers.most_at_once <= AT_ONCE

    play(tmp_path, Answers(at_once), work)


def test_errors_end_an_item_unless_they_pass(tmp_path: Path) -> None:
    async def do(number: int, tries: int) -> GatewayError | None:
        if number == 1:
            return InvalidRequestError("wrong")
        return OverloadedError("full", retry_after_s=0.0) if number == 2 and tries == 1 else None

    async def work(store: BatchStore, answers: Answers) -> None:
        await add(store, 4)
        assert [one.outcome for one in await ended(store)] == ["succeeded", "errored", "succeeded", "succeeded"]
        assert answers.asked.count(("b", 2)) == 2
        assert answers.asked.count(("b", 1)) == 1

    play(tmp_path, Answers(do), work)


def test_an_item_that_ends_every_worker_ends_with_that_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.batches.runner._PAUSE_S", 0.01)

    async def do(number: int, tries: int) -> GatewayError | None:
        return WorkerLostError("it died", retry_after_s=0.0)

    async def work(store: BatchStore, answers: Answers) -> None:
        await add(store, 1)
        assert [one.outcome for one in await ended(store)] == ["errored"]
        assert len(answers.asked) == 5

    play(tmp_path, Answers(do), work)


def test_what_ran_when_the_gateway_ended_is_run_by_the_next(tmp_path: Path) -> None:
    async def never(number: int, tries: int) -> None:
        if number:
            await asyncio.Event().wait()

    async def begin(store: BatchStore, answers: Answers) -> None:
        await add(store, 5)
        await until(lambda: len(answers.asked) == 5, "all of them run")

    async def go_on(store: BatchStore, answers: Answers) -> None:
        assert [one.outcome for one in await ended(store)] == ["succeeded"] * 5
        assert sorted(answers.asked) == [("b", number) for number in range(1, 5)], "what has ended is not done again"

    play(tmp_path, Answers(never), begin)
    play(tmp_path, Answers(at_once), go_on)


def test_what_is_cancelled_while_it_runs_is_stopped(tmp_path: Path) -> None:
    async def never(number: int, tries: int) -> None:
        await asyncio.Event().wait()

    async def work(store: BatchStore, answers: Answers) -> None:
        await add(store, 20)
        await until(lambda: answers.at_once == AT_ONCE, "some run")
        await store.call(Ledger.cancel, "b", 1.0)
        store.woken.set()
        assert {one.outcome for one in await ended(store)} == {"canceled"}
        await until(lambda: answers.at_once == 0, "nothing runs")

    play(tmp_path, Answers(never), work)


def test_a_bug_on_the_way_of_one_stops_no_other(tmp_path: Path) -> None:
    async def do(number: int, tries: int) -> None:
        if number == 0:
            raise KeyError("a bug")

    async def work(store: BatchStore, answers: Answers) -> None:
        await add(store, 12)

        async def are_done() -> bool:
            return (await store.call(Ledger.batch, "b", "openai")).counts == {"": 1, "succeeded": 11}

        await until_true(are_done, "all the others are done")

    play(tmp_path, Answers(do), work)


def test_one_of_several_gateways_beside_a_ledger_runs_and_another_takes_over(tmp_path: Path) -> None:
    async def main() -> None:
        store = BatchStore(tmp_path / "batches.sqlite3")
        both = [Answers(at_once), Answers(at_once)]
        runners = [asyncio.create_task(BatchRunner(store, answers).run()) for answers in both]
        try:
            await add(store, 10)
            await ended(store)
            (first,) = (place for place, answers in enumerate(both) if answers.asked)
            await cancel_all([runners[first]])
            await add(store, 3, "later")
            await ended(store, "later")
            assert len(both[1 - first].asked) == 3
        finally:
            await cancel_all(runners)
            await store.aclose()

    asyncio.run(main())
