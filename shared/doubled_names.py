"""Names that stand twice in one object of a JSON text: parsers keep the last value, and say nothing of the others (RFC
8259, 4)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]')


@dataclass(slots=True)
class _Level:
    """An object or a list that is open: `names` with the characters where each stands first."""

    names: dict[str, int] = field(default_factory=dict)
    place: str = ""  # the name, or the index, whose value is read
    index: int = -1  # of a list

    def go_on(self) -> None:
        if self.index >= 0:
            self.index += 1
            self.place = str(self.index)

    def note(self, name: str, at: int) -> int | None:
        """Where the same name stands already."""
        self.place = name
        before = self.names.get(name)
        self.names.setdefault(name, at)
        return before


def doubled_names(text: str) -> Iterator[str]:
    """One line for each, with its place. `text` is JSON that parses."""
    levels: list[_Level] = []
    string: re.Match[str] | None = None
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word[0] == '"':
            string = token
        elif word in "{[":
            levels.append(_Level() if word == "{" else _Level(place="0", index=0))
        elif word in "}]":
            levels.pop()
        elif word == ",":
            levels[-1].go_on()
        elif string is not None:  # a colon: what stood before it is a name
            first = levels[-1].note(json.loads(string[0]), string.start())
            if first is not None:
                yield _told(text, [each.place for each in levels], first, string.start())


def _told(text: str, path: list[str], first: int, again: int) -> str:
    where = f"line {_line(text, again)}, column {again - text.rfind(chr(10), 0, again)}"
    return f"{where}: {'.'.join(path)!r} is named again (first in line {_line(text, first)}), and this alone counts"


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
