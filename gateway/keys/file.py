"""The file of keys in the state folder: written as a whole, read again when it changes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from gateway.keys.holder import OWNER, Holder
from gateway.keys.record import KeyRecord, decode_record, encode_record
from shared.config import KEYS_FILE
from shared.errors import AuthenticationError, ConfigError
from shared.private_files import private_folder


class KeyFile:
    """Several processes may read it while one writes. A file that cannot be read any more changes nothing in who may
    come in, and `fault` says so: a slip of the pen neither opens the gateway nor locks everybody out."""

    def __init__(self, state_dir: Path) -> None:
        """Raises `ConfigError` for a file that cannot be read: a gateway that does not know its keys must not start."""
        self.path = state_dir / KEYS_FILE
        self.fault = ""
        self._stamp: tuple[int, ...] = ()
        self._records: dict[str, KeyRecord] = {}
        self._read()

    @property
    def has_keys(self) -> bool:
        """Whether any was ever made, or may have been: neither who revokes the last one opens the gateway with it, nor
        who damages, empties or removes the file."""
        self._refresh()
        return bool(self._stamp or self.fault)

    def records(self) -> Sequence[KeyRecord]:
        """In the order in which they were made."""
        self._refresh()
        return tuple(self._records.values())

    def find(self, digest: str) -> KeyRecord | None:
        self._refresh()
        return self._records.get(digest)

    def holder_of(self, name: str) -> Holder:
        """Who has the key of this name now; the owner's is empty. Raises `AuthenticationError`."""
        if not name:
            return OWNER
        states = {record.state(time.time()): record for record in self.records() if record.name == name}
        if "valid" in states:
            return states["valid"].holder
        raise AuthenticationError(f"the API key {name!r} is {next(reversed(states), 'gone')}")

    def _refresh(self) -> None:
        try:
            self._read()
        except ConfigError as error:
            self.fault = str(error)

    def _read(self) -> None:
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        if not stamp:
            raise ConfigError(f"{self.path}: the file is gone")
        self._stamp = stamp
        self._records = {record.digest: record for record in _load(self.path)} if stamp else {}
        self.fault = ""

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[KeyRecord]]:
        """The records, which are written when the block ends well and has changed them: a file that nobody needed, once
        there, demands keys. One process at a time. Raises `ConfigError`."""
        try:
            with (private_folder(self.path.parent) / f"{KEYS_FILE}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                records = _load(self.path) if self.path.exists() else []
                before = list(records)
                yield records
                if records != before:
                    _write(self.path, records)
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from error


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _load(path: Path) -> list[KeyRecord]:
    try:
        data = orjson.loads(path.read_bytes())
        if not isinstance(data, dict) or not isinstance(data.get("keys"), list):
            raise ConfigError('expected {"keys": [...]}')
        return [decode_record(value) for value in data["keys"]]
    except (OSError, orjson.JSONDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _write(path: Path, records: Sequence[KeyRecord]) -> None:
    """In one step, for the owner's eyes only."""
    data = orjson.dumps({"keys": [encode_record(record) for record in records]}, option=orjson.OPT_INDENT_2)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{KEYS_FILE}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
