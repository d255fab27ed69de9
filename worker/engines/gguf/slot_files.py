"""What slots have computed, on disk: saved before another conversation takes a slot and when the server ends, found
again when the conversation goes on, after a restart too.

The server writes and reads the files; which tokens each holds is in a small file beside it. Oldest use goes first when
they take more than they may.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from worker.prompt.sequences import common_length

log = logging.getLogger(__name__)

LEAST_TOKENS = 256  # fewer are computed sooner than they are read
_DATA, _TOKENS = ".slot", ".tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSlot:
    """`name` is the file's, as the server wants it."""

    name: str
    tokens: tuple[int, ...]
    tenant: str
    size_bytes: int


class SlotFiles:
    """Of one model as it is now. Not thread-safe. A negative `most_bytes`: nothing is kept."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._saved: dict[str, SavedSlot] = {}  # the longest unused first

    @property
    def is_on(self) -> bool:
        return self._most_bytes >= 0

    @property
    def size_bytes(self) -> int:
        return sum(saved.size_bytes for saved in self._saved.values())

    def open(self) -> None:
        """Make the folder, and find what an earlier process has left."""
        if not self.is_on:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self.folder.glob(f"*{_TOKENS}"), key=lambda each: each.stat().st_mtime):
            saved = _read(path)
            if saved is None:
                self._unlink(path.stem)
            else:
                self._saved[saved.name] = saved

    def name_of(self, tokens: Sequence[int], tenant: str) -> str:
        digest = hashlib.blake2b(msgpack.packb([tenant, *tokens]), digest_size=16)
        return digest.hexdigest() + _DATA

    def has(self, tokens: Sequence[int], tenant: str) -> bool:
        """Whether a file holds at least these tokens."""
        return any(
            saved.tenant == tenant and common_length(saved.tokens, tokens) == len(tokens)
            for saved in self._saved.values()
        )

    def find(self, tokens: Sequence[int], tenant: str, *, beyond: int) -> SavedSlot | None:
        """The one that has most of the tokens, and at least `LEAST_TOKENS` more than `beyond`."""
        best, most = None, beyond + LEAST_TOKENS - 1
        for saved in self._saved.values():
            common = common_length(saved.tokens, tokens) if saved.tenant == tenant else 0
            if common > most:
                best, most = saved, common
        if best is not None:
            self._saved[best.name] = self._saved.pop(best.name)
            with contextlib.suppress(OSError):
                os.utime(self._path(best.name, _TOKENS))
        return best

    def add(self, name: str, tokens: Sequence[int], tenant: str) -> None:
        """The server has written the file. Whatever it makes useless or too much goes."""
        path = self.folder / name
        try:
            size_bytes = path.stat().st_size
            self._path(name, _TOKENS).write_bytes(msgpack.packb([tenant, list(tokens)]))
        except OSError as error:
            log.warning("a slot cannot be kept on disk: %s", error)
            return
        for other in list(self._saved.values()):
            if other.tenant == tenant and common_length(other.tokens, tokens) == len(other.tokens):
                self.drop(other.name)  # the new one holds it all
        self._saved[name] = SavedSlot(name=name, tokens=tuple(tokens), tenant=tenant, size_bytes=size_bytes)
        while self.size_bytes > self._most_bytes and self._saved:
            self.drop(next(iter(self._saved)))

    def drop(self, name: str) -> None:
        self._saved.pop(name, None)
        self._unlink(name.removesuffix(_DATA))

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / (name.removesuffix(_DATA) + suffix)

    def _unlink(self, stem: str) -> None:
        for suffix in (_TOKENS, _DATA):
            with contextlib.suppress(OSError):
                (self.folder / (stem + suffix)).unlink(missing_ok=True)


def _read(path: Path) -> SavedSlot | None:
    """None for what is damaged, or has lost its file."""
    data = path.with_suffix(_DATA)
    try:
        found: Any = msgpack.unpackb(path.read_bytes())
        tenant, tokens = found
        return SavedSlot(
            name=data.name, tokens=tuple(map(int, tokens)), tenant=str(tenant), size_bytes=data.stat().st_size
        )
    except (OSError, ValueError, TypeError):
        return None
