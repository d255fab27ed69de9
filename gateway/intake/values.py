"""How many values a body holds, told from its bytes as they arrive, before anything is made of them.

A body of 32 MB may be one image or a million blocks of one letter, and a million of anything costs seconds and a
gigabyte. What stands in strings is content and counts for nothing.
"""

from __future__ import annotations

from typing import Final

from shared.errors import RequestTooLargeError
from shared.exact import SUSPECT

# A long conversation has some thirty values for each round of a tool. This is eight thousand rounds.
MAX_VALUES: Final = 250_000
# Of a number that a chunk's end may cut, what tells what it is.
_NUMBER_BYTES: Final = 20


class ValueCount:
    """Fed a body's chunks in order. `count` is of objects, arrays and separators, and so about one for each value.
    `is_exact`: a number may be one that has to stay as it is written (`shared.exact`)."""

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self.count = 0
        self.is_exact = False
        self._last = b""  # outside of strings
        self._limit = limit
        self._is_in_string = False
        self._is_escaped = False  # the next byte belongs to an escape

    def feed(self, chunk: bytes) -> None:
        """Raises `RequestTooLargeError` once there are more than the limit."""
        if self._is_escaped and chunk:
            chunk, self._is_escaped = chunk[1:], False
        # Pairs of backslashes first: then a backslash before a quote is its escape.
        chunk = chunk.replace(rb"\\", b"").replace(rb"\"", b"")
        if chunk.endswith(b"\\"):
            chunk, self._is_escaped = chunk[:-1], True
        runs = chunk.split(b'"')
        outside = b"".join(runs[int(self._is_in_string) :: 2])
        self._is_in_string ^= len(runs) % 2 == 0
        self._look(outside)
        self.count += outside.count(b"{") + outside.count(b"[") + outside.count(b",")
        if self.count > self._limit:
            raise RequestTooLargeError(f"the request body has more than {self._limit} values")

    def _look(self, outside: bytes) -> None:
        if not self.is_exact and outside:
            outside = self._last + outside
            self.is_exact = SUSPECT.search(outside) is not None
            self._last = outside[-_NUMBER_BYTES:]
