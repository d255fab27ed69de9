"""A JSON object as its writer wrote it, with some of its own fields changed: pure.

What a vendor caches and signs are bytes, so a body that is passed on is edited where it must be, and not written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from shared import exact

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_OPENS, _CLOSES = (b"{", b"["), (b"}", b"]")


def fields_of(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(name, where its value begins) of the outermost object's fields; the name as it is written, with its quotes."""
    depth = 0
    for token in _TOKEN.finditer(data):
        text = token.group()
        if text in _OPENS:
            depth += 1
        elif text in _CLOSES:
            depth -= 1
        elif depth == 1 and (colon := _COLON.match(data, token.end())):
            yield text, colon.end()


def with_text(data: bytes, name: str, value: str) -> bytes:
    """With a text in the place of the field's text, each time where it stands more than once."""
    written, quoted = exact.dump_bytes(value), f'"{name}"'.encode()
    pieces, done = [], 0
    for found, start in fields_of(data):
        old = _TOKEN.match(data, start) if found == quoted else None
        if old is not None:
            pieces += [data[done:start], written]
            done = old.end()
    return b"".join([*pieces, data[done:]])


def with_missing(data: bytes, values: Mapping[str, Any]) -> bytes:
    """With those of the fields that it does not have, before the others."""
    there = {name for name, _ in fields_of(data)}
    added = [
        quoted + b":" + exact.dump_bytes(value)
        for name, value in values.items()
        if (quoted := f'"{name}"'.encode()) not in there
    ]
    begin = data.index(b"{") + 1
    comma = [b","] if added and there else []
    return b"".join([data[:begin], b",".join(added), *comma, data[begin:]]) if added else data
