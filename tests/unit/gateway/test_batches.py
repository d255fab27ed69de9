"""Batches: what is kept of them, how they are run, and that each item ends once, whatever ends meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.batches import ledger as ledger_module
from gateway.batches.ledger import KEPT_S, Ledger
from gateway.batches.runner import AT_ONCE, Answered, BatchRunner
from gateway.batches.store import BatchStore
from gateway.dialects.batch_values import Batch, Ended, Item, StoredFile, Task
from gateway.dispatch.tasks import cancel_all
from gateway.http.batch_ways import RoutedWays
from gateway.http.batches import MessageBatch
from gateway.keys.file import KeyFile
from gateway.keys.holder import OWNER, holder_of
from gateway.keys.record import KeyRecord
from gateway.parts import Parts
from shared.errors import (
    AnswerNotFoundError,
    AuthenticationError,
    GatewayError,
    InvalidRequestError,
    OverloadedError,
    QuotaSpentError,
    RateLimitedError,
    RequestTooLargeError,
    WorkerLostError,
)
from tests.support.gateway import until, until_true

LONG_S = 4_000_000_000.0  # a time that does not come


def batch_of(batch_id: str, *, made_s: float = 1.0, expires_s: float = LONG_S, tenant: str = "") -> Batch:
    return Batch(
        id=batch_id,
        vendor="openai",
        path="/v1/completions",
        made_s=made_s,
        expires_s=expires_s,
        tenant=tenant,
        holder=tenant and f"{tenant}'s",
    )


def items_of(count: int) -> list[Item]:
    return [Item(custom_id=f"c{number}", body=orjson.dumps({"number": number})) for number in range(count)]


def file_of(file_id: str, **fields: object) -> StoredFile:
    known: dict[str, object] = {"name": "n", "purpose": "batch", "media_type": "text/plain", "size_bytes": 4}
    return StoredFile(id=file_id, vendor="openai", made_s=1.0, **known | fields)  # type: ignore[arg-type]


EARLIER_SCHEMA = """
CREATE TABLE files (id TEXT PRIMARY KEY, vendor TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL,
    media_type TEXT NOT NULL, size INTEGER NOT NULL, made_s REAL NOT NULL, expires_s REAL, content BLOB NOT NULL);
CREATE TABLE batches (id TEXT PRIMARY KEY, vendor TEXT NOT NULL, path TEXT NOT NULL, made_s REAL NOT NULL,
    expires_s REAL NOT NULL, cancelled_s REAL, ended_s REAL, input_file TEXT NOT NULL DEFAULT '',
    output_file TEXT NOT NULL DEFAULT '', error_file TEXT NOT NULL DEFAULT '', note BLOB NOT NULL);
CREATE TABLE items (batch TEXT NOT NULL REFERENCES batches ON DELETE CASCADE, number INTEGER NOT NULL,
    custom_id TEXT NOT NULL, body BLOB NOT NULL, outcome TEXT NOT NULL DEFAULT '', status INTEGER NOT NULL DEFAULT 0,
    request_id TEXT NOT NULL DEFAULT '', answer BLOB NOT NULL DEFAULT x'', tries INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch, number));
CREATE INDEX waiting ON items (number, batch) WHERE outcome = '';
INSERT INTO files VALUES ('f', 'openai', 'n', 'batch', 'text/plain', 1, 1.0, NULL, x'00');
INSERT INTO batches (id, vendor, path, made_s, expires_s, note)
    VALUES ('b', 'openai', '/v1/responses', 1.0, 4e9, x'7b7d');
INSERT INTO items (batch, number, custom_id, body) VALUES ('b', 0, 'c', x'7b7d');
"""


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
    assert (after.file("f1", ""), after.content("f1", "")) == (file_of("f1"), b"\x00\r\nbytes")
    assert after.batch("b1", "openai", "").counts == {"succeeded": 1, "": 2}
    assert [task.number for task in after.waiting(9, [])] == [1, 2]
    assert (tmp_path / "batches.sqlite3").stat().st_mode & 0o077 == 0, "only its owner reads it"


def test_batches_take_turns_and_what_runs_is_not_given_twice(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("large", made_s=1.0), items_of(5))
    ledger.add_batch(batch_of("small", made_s=2.0), items_of(2))
    first = ledger.waiting(3, [])
    assert [task.key for task in first] == [("large", 0), ("small", 0), ("large", 1)]
    assert [task.key for task in ledger.waiting(2, [task.key for task in first])] == [("small", 1), ("large", 2)]


def test_tenants_take_turns_however_many_batches_they_have(ledger: Ledger) -> None:
    for number in range(6):
        ledger.add_batch(batch_of(f"a{number}", made_s=number, tenant="anna"), items_of(9))
    ledger.add_batch(batch_of("b", made_s=9.0, tenant="ben"), items_of(9))
    ledger.add_batch(batch_of("own", made_s=10.0), items_of(1))
    tasks = ledger.waiting(6, [])
    assert [task.tenant for task in tasks] == ["anna", "ben", "", "anna", "ben", "anna"]
    assert tasks[1].holder == "ben's"
    one_more = ledger.waiting(1, [task.key for task in tasks], running=[task.tenant for task in tasks])
    assert [task.batch for task in one_more] == ["b"], "anna has three under way"
    assert {task.tenant for task in ledger.waiting(9, [], paused=[f"a{number}" for number in range(6)])} == {"ben", ""}


def test_what_is_anothers_is_not_there(ledger: Ledger) -> None:
    ledger.add_file(file_of("f", tenant="anna"), b"hers")
    ledger.add_batch(batch_of("b", tenant="anna"), items_of(1))
    assert (ledger.content("f", "anna"), ledger.file("f", "anna").tenant) == (b"hers", "anna")
    assert [each.id for each in ledger.files("anna")] == ["f"]
    assert [each.id for each in ledger.batches("openai", "anna")] == ["b"]
    for other in ("", "ben", "%"):
        assert (ledger.files(other), ledger.batches("openai", other)) == ([], [])
        for look in (ledger.file, ledger.content, ledger.delete_file):
            with pytest.raises(AnswerNotFoundError):
                look("f", other)
        with pytest.raises(AnswerNotFoundError):
            ledger.batch("b", "openai", other)


def test_what_an_earlier_release_kept_is_the_owners(tmp_path: Path) -> None:
    path = tmp_path / "batches.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as old, old:
        old.executescript(EARLIER_SCHEMA)
    ledger = Ledger(path)
    assert [each.id for each in ledger.files("")] == ["f"]
    assert [task.key for task in ledger.waiting(9, [])] == [("b", 0)]
    assert again(ledger, tmp_path).batch("b", "openai", "").holder == ""


def test_one_tenant_cannot_take_the_room_of_all(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MOST_OF_ONE", 1000)
    ledger.add_file(file_of("f", tenant="anna", size_bytes=600), b"x" * 600)
    ledger.add_batch(batch_of("b", tenant="anna"), [Item(custom_id="c", body=b"x" * 300)])
    with pytest.raises(RequestTooLargeError, match="one tenant"):
        ledger.add_file(file_of("g", tenant="anna", size_bytes=200), b"x" * 200)
    with pytest.raises(RequestTooLargeError, match="one tenant"):
        ledger.add_batch(batch_of("c", tenant="anna"), [Item(custom_id="c", body=b"x" * 101)])
    ledger.add_file(file_of("h", tenant="ben", size_bytes=900), b"x" * 900)
    ledger.add_file(file_of("i", size_bytes=2000), b"x" * 2000)


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
    assert ledger.batch("b", "openai", "").counts == {"succeeded": 1, "canceled": 2}
    assert ledger.batch("b", "openai", "").cancelled_s == 5.0
    ledger.cancel("b", 6.0)
    assert ledger.batch("b", "openai", "").cancelled_s == 5.0, "who asks again changes nothing"
    assert ledger.are_waiting([other.key for other in others]) == set()


def test_what_runs_out_of_time_expires_and_what_has_ended_is_forgotten_later(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("late", expires_s=10.0), items_of(2))
    ledger.add_batch(batch_of("early", expires_s=99.0), items_of(1))
    ledger.expire(10.0)
    assert ledger.batch("late", "openai", "").counts == {"expired": 2}
    assert ledger.batch("early", "openai", "").counts == {"": 1}
    (complete,) = ledger.complete()
    ledger.close_batch(complete, 11.0, {"output": (file_of("out", purpose="batch_output"), b"x")})
    assert ledger.batch("late", "openai", "").output_file == "out"
    ledger.expire(11.0 + KEPT_S + 1)
    with pytest.raises(AnswerNotFoundError):
        ledger.batch("late", "openai", "")
    with pytest.raises(AnswerNotFoundError):
        ledger.content("out", "")
    assert [task.batch for task in ledger.waiting(9, [])] == [], "its items are gone, and those of the other late"


def test_a_file_expires_when_its_client_said(ledger: Ledger) -> None:
    ledger.add_file(file_of("short", expires_s=5.0), b"x")
    ledger.add_file(file_of("long"), b"x")
    ledger.expire(6.0)
    assert [file.id for file in ledger.files("")] == ["long"]


def test_all_of_a_batch_is_taken_or_nothing(ledger: Ledger) -> None:
    ledger.add_batch(batch_of("b"), items_of(1))
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.add_batch(batch_of("b"), items_of(2))
    assert ledger.batch("b", "openai", "").counts == {"": 1}


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


def test_all_results_of_message_batches_are_sent_however_many_there_are(ledger: Ledger, tmp_path: Path) -> None:
    count = 1203  # more than are sent, and read, at once
    ledger.add_batch(replace(batch_of("b"), vendor="anthropic"), items_of(count))
    ledger.cancel("b", 1.0)
    ledger.close_batch(ledger.batch("b", "anthropic", ""), 2.0, {})

    async def results() -> bytes:
        store = BatchStore(tmp_path / "batches.sqlite3")
        sent: list[bytes] = []

        async def send(message: Message) -> None:
            sent.append(message.get("body", b""))

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "method": "GET", "path_params": {"id": "b/results"}}
        await MessageBatch(cast(Parts, SimpleNamespace(batches=store)))(scope, receive, send)
        await store.aclose()
        return b"".join(sent)

    lines = asyncio.run(results()).splitlines()
    assert [orjson.loads(line)["custom_id"] for line in lines] == [f"c{number}" for number in range(count)]


def test_a_disk_that_does_not_take_it_is_told_as_passing(tmp_path: Path) -> None:
    (tmp_path / "batches.sqlite3").mkdir()

    async def main() -> None:
        store = BatchStore(tmp_path / "batches.sqlite3")
        with pytest.raises(OverloadedError, match="cannot be stored"):
            await store.call(Ledger.files, "")
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
        return (await store.call(Ledger.batch, batch_id, "openai", "")).ended_s is not None

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


@pytest.mark.parametrize("refusal", [RateLimitedError, QuotaSpentError])
def test_batches_of_a_key_that_has_used_what_it_may_wait_and_hold_up_no_other(
    tmp_path: Path, refusal: type[GatewayError]
) -> None:
    async def do(number: int, tries: int) -> GatewayError | None:
        return refusal("used up", retry_after_s=1e6) if number >= 100 else None

    async def work(store: BatchStore, answers: Answers) -> None:
        many = [Item(custom_id=f"c{number}", body=b"{}") for number in range(400)]
        await store.call(Ledger.add_batch, batch_of("spent", tenant="anna"), many)
        await add(store, 20, "own", made_s=2.0)
        assert len(await ended(store, "own")) == 20
        await until(lambda: ("spent", 100) in answers.asked, "anna's comes to its key's limit")
        await add(store, 20, "next", made_s=3.0)
        assert len(await ended(store, "next")) == 20
        asked = [number for batch, number in answers.asked if batch == "spent" and number >= 100]
        assert len(asked) <= AT_ONCE, "what would be refused is not asked"
        assert (await store.call(Ledger.batch, "spent", "openai", "anna")).counts == {"": 300, "succeeded": 100}

    play(tmp_path, Answers(do), work)


def test_a_batch_whose_model_is_away_is_not_asked_item_by_item(tmp_path: Path) -> None:
    async def do(number: int, tries: int) -> GatewayError | None:
        return OverloadedError("no worker", retry_after_s=1e6)

    async def work(store: BatchStore, answers: Answers) -> None:
        await store.call(Ledger.add_batch, batch_of("away", tenant="anna"), items_of(500))
        store.woken.set()
        await until(lambda: len(answers.asked) >= 32, "some are tried")
        for _ in range(20):  # looks of the runner
            store.woken.set()
            await asyncio.sleep(0)
            await store.call(Ledger.files, "")
        assert len(answers.asked) < 32 + AT_ONCE

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
            return (await store.call(Ledger.batch, "b", "openai", "")).counts == {"": 1, "succeeded": 11}

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


def test_an_item_is_asked_as_who_has_its_key_now(tmp_path: Path) -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(holder_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    def asked(key: str, path: str = "/v1/chat/completions") -> Answered:
        task = Task(batch="b", number=0, path=path, body=b"{}", holder=key)
        return asyncio.run(RoutedWays(app, file.holder_of).answer(task))

    file = KeyFile(tmp_path)
    made = [
        KeyRecord(name="anna", digest="old", shown="s", created_s=1.0, revoked_s=2.0),
        KeyRecord(name="anna", digest="new", shown="s", created_s=3.0, tenant="home", ceiling="side"),
        KeyRecord(name="ben", digest="b", shown="s", created_s=1.0, revoked_s=2.0),
        KeyRecord(name="carl", digest="c", shown="s", created_s=1.0, expires_s=2.0),
        KeyRecord(name="screen", digest="v", shown="s", created_s=1.0, role="viewer"),
    ]
    with file.changing() as records:
        records.extend(made)
    assert asked("anna").status == 200
    assert asked("").status == 200
    assert seen == [made[1].holder, OWNER]
    for name, why in (("ben", "revoked"), ("carl", "expired"), ("dora", "gone")):
        answered = asked(name)
        assert (answered.status, type(answered.error)) == (401, AuthenticationError)
        assert why in str(answered.error)
    assert asked("screen").status == 403
    assert len(seen) == 2, "nobody else was let in"
