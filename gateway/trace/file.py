"""Where traces lie: a line of JSON for each request, in a file of each gateway's that is bounded in size and age."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.trace.recent import Recent, bounded
from shared.config import Settings
from shared.guard import RotatingLog

logger = logging.getLogger(__name__)

_FILES: Final = 4  # in which the bytes and the days are shared out: the oldest goes as a whole
_TIDY_EVERY_S: Final = 600.0
_DAY_S: Final = 86400.0
_NEWEST_BYTES: Final = 4 * 1024 * 1024


class TraceFile:
    """`write` takes microseconds and raises nothing. Without bytes or days nothing is kept."""

    def __init__(self, path: Path, *, most_bytes: int, most_age_s: float) -> None:
        self._path = path
        self._age_s = most_age_s
        self.is_on = most_bytes > 0 and most_age_s > 0
        self._log = RotatingLog(str(path), most_bytes=most_bytes // _FILES, kept=_FILES - 1)
        self._tidied_s = -_TIDY_EVERY_S
        self.recent = Recent()

    @classmethod
    def of(cls, settings: Settings) -> TraceFile:
        path = traces_folder(settings.state_dir) / f"trace-{settings.port}.jsonl"
        return cls(path, most_bytes=settings.trace_bytes, most_age_s=settings.trace_days * _DAY_S)

    def write(self, told: Mapping[str, Any]) -> None:
        if not self.is_on:
            return
        now_s = time.monotonic()
        if now_s - self._tidied_s >= _TIDY_EVERY_S:
            self._tidied_s = now_s
            self._tidy(time.time())
        line = orjson.dumps(told, default=str)
        self._log.write(line + b"\n")
        self.recent.note(str(told.get("id")), line)

    def newest(self) -> list[tuple[str, bytes]]:
        """Ids and lines of what its newest file ends with, at most a few megabytes of it."""
        with contextlib.suppress(OSError):
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - _NEWEST_BYTES))
                return [(said["id"], bounded(line.strip())) for line in file if (said := parse_trace(line)) is not None]
        return []

    def find(self, request_id: str) -> dict[str, Any] | None:
        """One request's trace in full, read from the files."""
        for path in (*_set_aside(self._path), self._path):
            for said in _lines(path):
                if said["id"] == request_id:
                    return said
        return None

    def _tidy(self, now_s: float) -> None:
        """A file that was begun long ago is set aside, and goes when its last line is too old."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if now_s - _begun_s(self._path, now_s) > self._age_s / _FILES:
                self._log.set_aside()
            for path in _set_aside(self._path):
                if now_s - path.stat().st_mtime > self._age_s:
                    path.unlink()

    def close(self) -> None:
        self._log.close()


def traces_folder(state_dir: Path) -> Path:
    return state_dir / "logs"


def _set_aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.[0-9]*"), reverse=True)


def _begun_s(path: Path, default_s: float) -> float:
    with contextlib.suppress(OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        with path.open("rb") as file:
            return float(orjson.loads(file.readline())["at_s"])
    return default_s


def read_traces(state_dir: Path) -> Iterator[dict[str, Any]]:
    """All that are kept, of each gateway's file the oldest first. A line that was cut is passed over."""
    for path in sorted(traces_folder(state_dir).glob("trace-*.jsonl")):
        for each in (*_set_aside(path), path):
            yield from _lines(each)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        with path.open("rb") as file:
            yield from filter(None, map(parse_trace, file))


def parse_trace(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(orjson.JSONDecodeError):
        said = orjson.loads(line)
        if isinstance(said, dict) and "id" in said:
            return said
    return None
