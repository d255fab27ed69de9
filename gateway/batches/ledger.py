"""Files and batches in one SQLite database, on one thread: what is written here outlives every process.

Source of the pragmas: https://www.sqlite.org/wal.html. With `synchronous=FULL` whatever was answered has reached the
disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.dialects.batch_values import Batch, Ended, Item, Outcome, StoredFile, Task
from shared.errors import AnswerNotFoundError, RequestTooLargeError

KEPT_S: Final = 30 * 24 * 3600.0  # what has ended, and files
MOST_BYTES: Final = 2 * 1024**3  # of all files, requests and answers together
_PAGE: Final = 500

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, vendor TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL, media_type TEXT NOT NULL,
    size INTEGER NOT NULL, made_s REAL NOT NULL, expires_s REAL, content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, vendor TEXT NOT NULL, path TEXT NOT NULL, made_s REAL NOT NULL, expires_s REAL NOT NULL,
    cancelled_s REAL, ended_s REAL, input_file TEXT NOT NULL DEFAULT '', output_file TEXT NOT NULL DEFAULT '',
    error_file TEXT NOT NULL DEFAULT '', note BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS items (
    batch TEXT NOT NULL REFERENCES batches ON DELETE CASCADE, number INTEGER NOT NULL, custom_id TEXT NOT NULL,
    body BLOB NOT NULL, outcome TEXT NOT NULL DEFAULT '', status INTEGER NOT NULL DEFAULT 0,
    request_id TEXT NOT NULL DEFAULT '', answer BLOB NOT NULL DEFAULT x'', tries INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch, number)
);
CREATE INDEX IF NOT EXISTS waiting ON items (number, batch) WHERE outcome = '';
"""
_FILE: Final = "id, vendor, name, purpose, media_type, size, made_s, expires_s"
_BATCH: Final = "id, vendor, path, made_s, expires_s, cancelled_s, ended_s, input_file, output_file, error_file, note"


class Ledger:
    """Used on one thread. Raises `AnswerNotFoundError`, `RequestTooLargeError`, and `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    # --- files ---------------------------------------------------------------------------------------------------

    def add_file(self, file: StoredFile, content: bytes) -> None:
        self._check_room(len(content))
        row = (*_file_row(file), content)
        self._db.execute(f"INSERT INTO files ({_FILE}, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def file(self, file_id: str) -> StoredFile:
        row = self._db.execute(f"SELECT {_FILE} FROM files WHERE id = ?", (file_id,)).fetchone()
        if row is None:
            raise AnswerNotFoundError(f"there is no file {file_id[:100]!r}: it was deleted, has expired, or never was")
        return _file(row)

    def content(self, file_id: str) -> bytes:
        self.file(file_id)
        (content,) = self._db.execute("SELECT content FROM files WHERE id = ?", (file_id,)).fetchone()
        return bytes(content)

    def files(self) -> list[StoredFile]:
        """The oldest first."""
        rows = self._db.execute(f"SELECT {_FILE} FROM files ORDER BY made_s, rowid").fetchall()
        return [_file(row) for row in rows]

    def delete_file(self, file_id: str) -> None:
        self.file(file_id)
        self._db.execute("DELETE FROM files WHERE id = ?", (file_id,))

    # --- batches -------------------------------------------------------------------------------------------------

    def add_batch(self, batch: Batch, items: Sequence[Item]) -> Batch:
        """All of it or, when something fails, nothing."""
        self._check_room(sum(len(item.body) for item in items))
        row = (batch.id, batch.vendor, batch.path, batch.made_s, batch.expires_s, batch.ended_s, batch.input_file)
        with self._transaction():
            self._db.execute(
                "INSERT INTO batches (id, vendor, path, made_s, expires_s, ended_s, input_file, note)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, orjson.dumps(batch.note)),
            )
            self._db.executemany(
                "INSERT INTO items (batch, number, custom_id, body) VALUES (?, ?, ?, ?)",
                ((batch.id, number, item.custom_id, item.body) for number, item in enumerate(items)),
            )
        return self.batch(batch.id, batch.vendor)

    def batch(self, batch_id: str, vendor: str) -> Batch:
        row = self._db.execute(
            f"SELECT {_BATCH} FROM batches WHERE id = ? AND vendor = ?", (batch_id, vendor)
        ).fetchone()
        if row is None:
            raise AnswerNotFoundError(f"there is no batch {batch_id[:100]!r}: it was deleted, or never was")
        return self._counted(row)

    def batches(self, vendor: str) -> list[Batch]:
        """The oldest first."""
        query = f"SELECT {_BATCH} FROM batches WHERE vendor = ? ORDER BY made_s, rowid"
        return [self._counted(row) for row in self._db.execute(query, (vendor,)).fetchall()]

    def _counted(self, row: Sequence[Any]) -> Batch:
        query = "SELECT outcome, count(*) FROM items WHERE batch = ? GROUP BY outcome"
        counts: dict[Outcome, int] = dict(self._db.execute(query, (row[0],)).fetchall())
        *values, note = row
        return Batch(**dict(zip(_BATCH.split(", ")[:-1], values, strict=True)), note=orjson.loads(note), counts=counts)

    def delete_batch(self, batch_id: str) -> None:
        self._db.execute("DELETE FROM batches WHERE id = ?", (batch_id,))

    def cancel(self, batch_id: str, now_s: float) -> None:
        """What has not ended is canceled; what runs is not wanted any more."""
        with self._transaction():
            query = "UPDATE batches SET cancelled_s = ? WHERE id = ? AND ended_s IS NULL"
            if self._db.execute(query, (now_s, batch_id)).rowcount:
                self._end_waiting("canceled", "batch = ?", batch_id)

    # --- items ---------------------------------------------------------------------------------------------------

    def waiting(self, count: int, besides: Iterable[tuple[str, int]]) -> list[Task]:
        """Items to be done, a few of each batch, the first first."""
        known = set(besides)
        query = (
            "SELECT items.batch, number, path, body, tries FROM items JOIN batches ON batches.id = items.batch"
            " WHERE outcome = '' ORDER BY number, made_s LIMIT ?"
        )
        rows = self._db.execute(query, (count + len(known),))
        tasks = (Task(batch=b, number=n, path=p, body=bytes(body), tries=t) for b, n, p, body, t in rows)
        return [task for task in tasks if task.key not in known][:count]

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
                row = (*_file_row(file), content)
                self._db.execute(f"INSERT INTO files ({_FILE}, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._db.execute(
                "UPDATE batches SET ended_s = ?, output_file = ?, error_file = ? WHERE id = ?",
                (now_s, names.get("output", ""), names.get("error", ""), batch.id),
            )

    # -------------------------------------------------------------------------------------------------------------

    def _end_waiting(self, outcome: Outcome, where: str, value: Any) -> None:
        self._db.execute(f"UPDATE items SET outcome = ? WHERE outcome = '' AND {where}", (outcome, value))

    def _check_room(self, more_bytes: int) -> None:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size + more_bytes > MOST_BYTES:
            raise RequestTooLargeError(f"files and batches here have {MOST_BYTES >> 20} MB together: delete some first")

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
    )  # fmt: skip


def _file(row: Sequence[Any]) -> StoredFile:
    file_id, vendor, name, purpose, media_type, size, made_s, expires_s = row
    return StoredFile(
        id=file_id,
        vendor=vendor,
        name=name,
        purpose=purpose,
        media_type=media_type,
        size_bytes=size,
        made_s=made_s,
        expires_s=expires_s,
    )


def _ended(row: Sequence[Any]) -> Ended:
    _, custom_id, outcome, status, request_id, answer = row
    return Ended(custom_id=custom_id, outcome=outcome, status=status, request_id=request_id, answer=bytes(answer))
