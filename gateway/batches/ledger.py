"""Files and batches in one SQLite database, on one thread: what is written here outlives every process.

Source of the pragmas: https://www.sqlite.org/wal.html. With `synchronous=FULL` whatever was answered has reached the
disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.batches.turns import Waiting, share_out
from gateway.dialects.batch_values import Batch, Ended, Item, Outcome, StoredFile, Task
from shared.errors import AnswerNotFoundError, RequestTooLargeError

KEPT_S: Final = 30 * 24 * 3600.0  # what has ended, and files
MOST_BYTES: Final = 2 * 1024**3  # of all files, requests and answers together
MOST_OF_ONE: Final = MOST_BYTES // 4  # of one tenant's, besides the owner's
_PAGE: Final = 500

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, vendor TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL, media_type TEXT NOT NULL,
    size INTEGER NOT NULL, made_s REAL NOT NULL, expires_s REAL, content BLOB NOT NULL, tenant TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, vendor TEXT NOT NULL, path TEXT NOT NULL, made_s REAL NOT NULL, expires_s REAL NOT NULL,
    cancelled_s REAL, ended_s REAL, input_file TEXT NOT NULL DEFAULT '', output_file TEXT NOT NULL DEFAULT '',
    error_file TEXT NOT NULL DEFAULT '', note BLOB NOT NULL, holder TEXT NOT NULL DEFAULT '',
    tenant TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS items (
    batch TEXT NOT NULL REFERENCES batches ON DELETE CASCADE, number INTEGER NOT NULL, custom_id TEXT NOT NULL,
    body BLOB NOT NULL, outcome TEXT NOT NULL DEFAULT '', status INTEGER NOT NULL DEFAULT 0,
    request_id TEXT NOT NULL DEFAULT '', answer BLOB NOT NULL DEFAULT x'', tries INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch, number)
);
CREATE INDEX IF NOT EXISTS waiting_of ON items (batch, number) WHERE outcome = '';
DROP INDEX IF EXISTS waiting;
"""
_ADDED: Final = (("files", "tenant"), ("batches", "holder"), ("batches", "tenant"))  # to tables of earlier releases
_FILE: Final = "id, vendor, name, purpose, media_type, size, made_s, expires_s, tenant"
_BATCH: Final = (
    "id, vendor, path, made_s, expires_s, cancelled_s, ended_s, input_file, output_file, error_file, holder, tenant,"
    " note"
)
_ADD_FILE: Final = f"INSERT INTO files ({_FILE}, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Ledger:
    """Used on one thread. Raises `AnswerNotFoundError`, `RequestTooLargeError`, and `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        with self._transaction():
            self._add_columns()

    def _add_columns(self) -> None:
        for table, column in _ADDED:
            if column not in {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")

    def close(self) -> None:
        self._db.close()

    # --- files ---------------------------------------------------------------------------------------------------

    def add_file(self, file: StoredFile, content: bytes) -> None:
        self._check_room(file.tenant, len(content))
        self._db.execute(_ADD_FILE, (*_file_row(file), content))

    def file(self, file_id: str, tenant: str) -> StoredFile:
        query = f"SELECT {_FILE} FROM files WHERE id = ? AND tenant = ?"
        row = self._db.execute(query, (file_id, tenant)).fetchone()
        if row is None:
            raise AnswerNotFoundError(f"there is no file {file_id[:100]!r}: it was deleted, has expired, or never was")
        return _file(row)

    def content(self, file_id: str, tenant: str) -> bytes:
        self.file(file_id, tenant)
        (content,) = self._db.execute("SELECT content FROM files WHERE id = ?", (file_id,)).fetchone()
        return bytes(content)

    def files(self, tenant: str) -> list[StoredFile]:
        """The oldest first."""
        query = f"SELECT {_FILE} FROM files WHERE tenant = ? ORDER BY made_s, rowid"
        return [_file(row) for row in self._db.execute(query, (tenant,)).fetchall()]

    def delete_file(self, file_id: str, tenant: str) -> None:
        self.file(file_id, tenant)
        self._db.execute("DELETE FROM files WHERE id = ?", (file_id,))

    # --- batches -------------------------------------------------------------------------------------------------

    def add_batch(self, batch: Batch, items: Sequence[Item]) -> Batch:
        """All of it or, when something fails, nothing."""
        self._check_room(batch.tenant, sum(len(item.body) for item in items))
        row = (batch.id, batch.vendor, batch.path, batch.made_s, batch.expires_s, batch.ended_s, batch.input_file)
        with self._transaction():
            self._db.execute(
                "INSERT INTO batches (id, vendor, path, made_s, expires_s, ended_s, input_file, holder, tenant, note)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, batch.holder, batch.tenant, orjson.dumps(batch.note)),
            )
            self._db.executemany(
                "INSERT INTO items (batch, number, custom_id, body) VALUES (?, ?, ?, ?)",
                ((batch.id, number, item.custom_id, item.body) for number, item in enumerate(items)),
            )
        return self.batch(batch.id, batch.vendor, batch.tenant)

    def batch(self, batch_id: str, vendor: str, tenant: str) -> Batch:
        query = f"SELECT {_BATCH} FROM batches WHERE id = ? AND vendor = ? AND tenant = ?"
        row = self._db.execute(query, (batch_id, vendor, tenant)).fetchone()
        if row is None:
            raise AnswerNotFoundError(f"there is no batch {batch_id[:100]!r}: it was deleted, or never was")
        return self._counted(row)

    def batches(self, vendor: str, tenant: str) -> list[Batch]:
        """The oldest first."""
        query = f"SELECT {_BATCH} FROM batches WHERE vendor = ? AND tenant = ? ORDER BY made_s, rowid"
        return [self._counted(row) for row in self._db.execute(query, (vendor, tenant)).fetchall()]

    def _counted(self, row: Sequence[Any]) -> Batch:
        query = "SELECT outcome, count(*) FROM items WHERE batch = ? GROUP BY outcome"
        counts: dict[Outcome, int] = dict(self._db.execute(query, (row[0],)).fetchall())
        *values, note = row
        return Batch(**dict(zip(_BATCH.split(", ")[:-1], values, strict=True)), note=orjson.loads(note), counts=counts)

    def delete_batch(self, batch_id: str) -> None:
        self._db.execute("DELETE FROM batches WHERE id = ?", (batch_id,))

    def cancel(self, batch_id: str, now_s: float) -> None:
        """What has not ended is canceled; what runs is not wanted any more. The first time stays."""
        with self._transaction():
            query = "UPDATE batches SET cancelled_s = coalesce(cancelled_s, ?) WHERE id = ? AND ended_s IS NULL"
            if self._db.execute(query, (now_s, batch_id)).rowcount:
                self._end_waiting("canceled", "batch = ?", batch_id)

    # --- items ---------------------------------------------------------------------------------------------------

    def waiting(
        self, count: int, besides: Iterable[tuple[str, int]], *, paused: Iterable[str] = (), running: Iterable[str] = ()
    ) -> list[Task]:
        """Items to be done, none of `besides` and of the batches that are `paused`: tenants take turns, then batches,
        and of each the first comes first. `running` has the tenant of each item that runs."""
        known, waits = set(besides), set(paused)
        found: list[Waiting] = []
        query = "SELECT id, tenant FROM batches WHERE ended_s IS NULL ORDER BY made_s, rowid"
        for batch, tenant in self._db.execute(query).fetchall():
            if batch not in waits:
                numbers = self._waiting_numbers(batch, count, {number for name, number in known if name == batch})
                found += [Waiting(batch=batch, number=number, tenant=tenant) for number in numbers]
        found.sort(key=lambda item: item.number)
        return [self._task(item) for item in share_out(found, running, count)]

    def _waiting_numbers(self, batch: str, count: int, besides: Collection[int]) -> list[int]:
        query = "SELECT number FROM items WHERE batch = ? AND outcome = '' ORDER BY number LIMIT ?"
        rows = self._db.execute(query, (batch, count + len(besides))).fetchall()
        return [number for (number,) in rows if number not in besides][:count]

    def _task(self, item: Waiting) -> Task:
        query = (
            "SELECT path, body, tries, holder, tenant FROM items JOIN batches ON batches.id = items.batch"
            " WHERE batch = ? AND number = ?"
        )
        path, body, tries, holder, tenant = self._db.execute(query, (item.batch, item.number)).fetchone()
        return Task(
            batch=item.batch,
            number=item.number,
            path=path,
            body=bytes(body),
            tries=tries,
            holder=holder,
            tenant=tenant,
        )

    def are_waiting(self, keys: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Which of the items nobody has ended."""
        query = "SELECT 1 FROM items WHERE batch = ? AND number = ? AND outcome = ''"
        return {key for key in keys if self._db.execute(query, key).fetchone()}

    def end(self, task: Task, ended: Ended) -> None:
        """Unless it was ended meanwhile, by who cancelled it."""
        self._db.execute(
            "UPDATE items SET outcome = ?, status = ?, request_id = ?, answer = ?"
            " WHERE batch = ? AND number = ? AND outcome = ''",
            (ended.outcome, ended.status, ended.request_id, ended.answer, *task.key),
        )

    def note_try(self, task: Task) -> None:
        self._db.execute("UPDATE items SET tries = tries + 1 WHERE batch = ? AND number = ?", task.key)

    def ended(self, batch_id: str, outcomes: Sequence[Outcome] = ()) -> Iterator[Ended]:
        """The endings in order, read page by page, of these outcomes alone where there are any."""
        names = ", ".join("?" for _ in outcomes)
        only = f"outcome IN ({names})" if outcomes else "outcome != ''"
        query = (
            "SELECT number, custom_id, outcome, status, request_id, answer FROM items"
            f" WHERE batch = ? AND number > ? AND {only} ORDER BY number LIMIT {_PAGE}"
        )
        last = -1
        while rows := self._db.execute(query, (batch_id, last, *outcomes)).fetchall():
            yield from (_ended(row) for row in rows)
            last = rows[-1][0]

    # --- what time brings ----------------------------------------------------------------------------------------

    def expire(self, now_s: float) -> None:
        """End what ran out of time, and forget what was kept long enough."""
        with self._transaction():
            late = "batch IN (SELECT id FROM batches WHERE ended_s IS NULL AND expires_s <= ?)"
            self._end_waiting("expired", late, now_s)
            self._db.execute("DELETE FROM batches WHERE ended_s < ?", (now_s - KEPT_S,))
            self._db.execute(
                "DELETE FROM files WHERE expires_s <= ? OR (expires_s IS NULL AND vendor = 'openai' AND made_s < ?)",
                (now_s, now_s - KEPT_S),
            )

    def complete(self) -> list[Batch]:
        """The batches of which every item has ended and that have no end yet."""
        query = (
            f"SELECT {_BATCH} FROM batches WHERE ended_s IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM items WHERE batch = batches.id AND outcome = '')"
        )
        return [self._counted(row) for row in self._db.execute(query).fetchall()]

    def close_batch(self, batch: Batch, now_s: float, files: Mapping[str, tuple[StoredFile, bytes]]) -> None:
        """With its files (`output`, `error`), where it has any."""
        names = {kind: file.id for kind, (file, _) in files.items()}
        with self._transaction():
            for file, content in files.values():
                self._db.execute(_ADD_FILE, (*_file_row(file), content))
            self._db.execute(
                "UPDATE batches SET ended_s = ?, output_file = ?, error_file = ? WHERE id = ?",
                (now_s, names.get("output", ""), names.get("error", ""), batch.id),
            )

    # -------------------------------------------------------------------------------------------------------------

    def _end_waiting(self, outcome: Outcome, where: str, value: Any) -> None:
        self._db.execute(f"UPDATE items SET outcome = ? WHERE outcome = '' AND {where}", (outcome, value))

    def _check_room(self, tenant: str, more_bytes: int) -> None:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size + more_bytes > MOST_BYTES:
            raise RequestTooLargeError(f"files and batches here have {MOST_BYTES >> 20} MB together: delete some first")
        if tenant and self._bytes_of(tenant) + more_bytes > MOST_OF_ONE:
            raise RequestTooLargeError(
                f"files and batches of one tenant have {MOST_OF_ONE >> 20} MB together: delete some first"
            )

    def _bytes_of(self, tenant: str) -> int:
        query = (
            "SELECT (SELECT coalesce(sum(size), 0) FROM files WHERE tenant = :tenant)"
            " + (SELECT coalesce(sum(length(body) + length(answer)), 0) FROM items"
            " WHERE batch IN (SELECT id FROM batches WHERE tenant = :tenant))"
        )
        (used,) = self._db.execute(query, {"tenant": tenant}).fetchone()
        return int(used)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """All of a block, or nothing of it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _file_row(file: StoredFile) -> tuple[Any, ...]:
    return (
        file.id, file.vendor, file.name, file.purpose, file.media_type, file.size_bytes, file.made_s, file.expires_s,
        file.tenant,
    )  # fmt: skip


def _file(row: Sequence[Any]) -> StoredFile:
    file_id, vendor, name, purpose, media_type, size, made_s, expires_s, tenant = row
    return StoredFile(
        id=file_id,
        vendor=vendor,
        name=name,
        purpose=purpose,
        media_type=media_type,
        size_bytes=size,
        made_s=made_s,
        expires_s=expires_s,
        tenant=tenant,
    )


def _ended(row: Sequence[Any]) -> Ended:
    _, custom_id, outcome, status, request_id, answer = row
    return Ended(custom_id=custom_id, outcome=outcome, status=status, request_id=request_id, answer=bytes(answer))
