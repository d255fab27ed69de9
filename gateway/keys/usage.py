"""What every key used, a row for each day and model, in a small database beside the gateway's state.

Several gateways of one machine may write it. A gateway gathers what ended for a moment and writes it in a thread, so
that no request waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from shared.beats import until_beat_s
from shared.events import Usage, known

logger = logging.getLogger(__name__)

NAME: Final = "usage.sqlite"
EVERY_S: Final = 2.0
_WAIT_S: Final = 10.0  # for another gateway's writing
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS usage (
  day TEXT, key TEXT, model TEXT, requests INTEGER, input_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER,
  PRIMARY KEY (day, key, model))
"""
_ADD: Final = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, key, model) DO UPDATE SET
  requests = requests + excluded.requests, input_tokens = input_tokens + excluded.input_tokens,
  cached_tokens = cached_tokens + excluded.cached_tokens, output_tokens = output_tokens + excluded.output_tokens
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Of one key and model on one day (UTC). `key` is empty for the owner's."""

    day: str
    key: str
    model: str
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int

    def __add__(self, other: Used) -> Used:
        return Used(
            day=self.day,
            key=self.key,
            model=self.model,
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


def computed_tokens(usage: Usage) -> int:
    """What quotas count: the prompt without what the cache held, and the answer."""
    return max(0, known(usage.input_tokens) - known(usage.cached_tokens)) + known(usage.output_tokens)


class UsageBook:
    """`note` is called on the loop. What cannot be written stays until it can be."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / NAME
        self._gathered: dict[tuple[str, str, str], Used] = {}
        self._has_failed = False

    def note(self, key: str, model: str, usage: Usage) -> None:
        used = Used(
            day=datetime.fromtimestamp(time.time(), UTC).date().isoformat(),
            key=key,
            model=model,
            requests=1,
            input_tokens=known(usage.input_tokens),
            cached_tokens=known(usage.cached_tokens),
            output_tokens=known(usage.output_tokens),
        )
        self._gather(used)

    def _gather(self, used: Used) -> None:
        place = (used.day, used.key, used.model)
        self._gathered[place] = self._gathered[place] + used if place in self._gathered else used

    async def keep_writing(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(until_beat_s(EVERY_S))
            if self._gathered:
                await self.flush()

    async def flush(self) -> None:
        rows, self._gathered = list(self._gathered.values()), {}
        if not rows:
            return
        try:
            await asyncio.to_thread(_write, self._path, rows)
            self._has_failed = False
        except (sqlite3.Error, OSError) as error:
            for row in rows:
                self._gather(row)
            if not self._has_failed:
                self._has_failed = True
                logger.warning("usage cannot be written to %s, and is kept until it can: %s", self._path, error)


def _write(path: Path, rows: list[Used]) -> None:
    with _opened(path) as database:
        database.execute(_TABLE)
        database.executemany(
            _ADD,
            [
                (row.day, row.key, row.model, row.requests, row.input_tokens, row.cached_tokens, row.output_tokens)
                for row in rows
            ],
        )


def read_usage(state_dir: Path) -> list[Used]:
    """By day, key and model. Raises `sqlite3.Error`."""
    path = state_dir / NAME
    if not path.is_file():
        return []
    with _opened(path) as database:
        database.execute(_TABLE)
        found = database.execute("SELECT * FROM usage ORDER BY day, key, model").fetchall()
    names = ("day", "key", "model", "requests", "input_tokens", "cached_tokens", "output_tokens")
    return [Used(**dict(zip(names, row, strict=True))) for row in found]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Committed where the block ends well, and closed."""
    with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_S)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        with database:
            yield database
