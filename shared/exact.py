"""JSON numbers that a float or 64 bits would change: carried as they are written.

JSON (RFC 8259, section 6) lets a number have any number of digits. Models write such, clients send them back, and
schemas have them as bounds; a prompt that shows another number than the one that was generated is another prompt.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import orjson

_64_BITS: Final = range(-(1 << 63), 1 << 64)
_MOST_DIGITS: Final = 20  # of an integer of 64 bits
# Nobody can write this in a string of theirs.
_MARK: Final = secrets.token_hex(16)
_MARKED: Final = re.compile(rf'"{_MARK}([^"]*)"')
# In JSON without its strings: what `loads` may make an `ExactNumber` of.
SUSPECT: Final = re.compile(rb"[0-9]{19}|[0-9][0-9.]{16}|[0-9][eE]|\.[0-9]+0(?![0-9])|-0(?![.0-9])")


@dataclass(frozen=True, slots=True)
class ExactNumber:
    """`text` is the JSON number."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def is_integer(self) -> bool:
        return self.text.removeprefix("-").isdigit()


def _integer(text: str) -> int | ExactNumber:
    if len(text) > _MOST_DIGITS or text == "-0":
        return ExactNumber(text)
    value = int(text)
    return value if value in _64_BITS else ExactNumber(text)


def _float(text: str) -> float | ExactNumber:
    value = float(text)
    return value if repr(value) == text else ExactNumber(text)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def loads(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError` for what is none (NaN and Infinity, too), `RecursionError` for one
    that is nested too deep."""
    return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refuse)


def load_bytes(data: bytes | bytearray | memoryview, *, is_exact: bool | None = None) -> Any:
    """As `loads`, of UTF-8; half of a surrogate pair is no JSON either. What has no such number in it, nor text that
    looks like one, is read faster; `is_exact` says so where it is known."""
    if not (SUSPECT.search(data) if is_exact is None else is_exact):
        return orjson.loads(data)
    value = loads(bytes(data).decode())
    try:
        dump_bytes(value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return value


def dumps(value: Any, **options: Any) -> str:
    """As `json.dumps` writes it, exact numbers as they were."""
    found: list[ExactNumber] = []

    def mark(other: Any) -> str:
        if not isinstance(other, ExactNumber):
            raise TypeError(f"Object of type {type(other).__name__} is not JSON serializable")
        found.append(other)
        return _MARK + other.text

    text = json.dumps(value, default=mark, **options)
    return _MARKED.sub(r"\1", text) if found else text


def dump_bytes(value: Any) -> bytes:
    """Compact JSON. Raises `TypeError` for what is none."""
    return orjson.dumps(value, default=_fragment, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _fragment(value: Any) -> orjson.Fragment:
    if isinstance(value, ExactNumber):
        return orjson.Fragment(value.text)
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def plain(value: Any) -> Any:
    """The value with floats in the place of exact numbers, for who counts with them."""
    if isinstance(value, ExactNumber):
        return float(value.text)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
