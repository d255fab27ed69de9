"""The requests that ended last at this gateway, for whoever looks: without what was said in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import orjson

MOST: Final = 1000
_MOST_BYTES: Final = 16 * 1024
_SAID: Final = ("body", "answer")
_LONG: Final = (*_SAID, "canonical", "attempts")


class Recent:
    """`note` takes a trace's line. `count` grows with each, so that who looks again knows whether there are more."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, bytes]] = deque(maxlen=MOST)
        self.count = 0

    def note(self, request_id: str, line: bytes) -> None:
        self.count += 1
        self._lines.append((request_id, bounded(line)))

    def since(self, count: int) -> list[bytes]:
        """The lines that were noted after so many, oldest first."""
        wanted = min(self.count - count, len(self._lines))
        return [line for _, line in list(self._lines)[len(self._lines) - wanted :]]

    def put_before(self, older: Sequence[tuple[str, bytes]]) -> None:
        """Ids and lines from before this process, oldest first."""
        there = {request_id for request_id, _ in self._lines}
        missing = [each for each in older if each[0] not in there][-MOST:]
        room = MOST - len(self._lines)
        self._lines.extendleft(reversed(missing[-room:] if room else []))
        self.count = len(self._lines) + self.count


def bounded(line: bytes) -> bytes:
    """Without what was said; where it is still long, without all that may be."""
    if len(line) <= _MOST_BYTES and b'"body":' not in line and b'"answer":' not in line:
        return line
    told = orjson.loads(line)
    for names in (_SAID, _LONG):
        told = {name: value for name, value in told.items() if name not in names}
        line = orjson.dumps(told)
        if len(line) <= _MOST_BYTES:
            break
    return line
