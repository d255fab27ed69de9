"""The JSON that an argument's plain text means, by the types that its schema allows.

A format that writes values as plain text writes the string `5` and the number 5 alike. So text is JSON of another type
only where the schema allows that type, and else the string that it spells, as it stands.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from worker.formats.schemas import TYPES, type_of

Kinds = frozenset[str]
TEXT: Kinds = frozenset({"string"})
ANY: Kinds = frozenset(TYPES)
# What Python's words for them mean where no string is allowed.
WORDS = {"true": "true", "false": "false", "none": "null", "null": "null"}
# With which JSON of another type than a string begins.
_STARTS = "{[-0123456789"
_JSON_WORDS = ("true", "false", "null")
_LOOK_CHARS = 64


def readable(kinds: Kinds | None, unsaid: Literal["text", "any"]) -> Kinds:
    """The types that the text of an argument may be read as. `kinds` are its schema's (None: it is not declared);
    `unsaid` is the family's way where the schema leaves it open."""
    if kinds is None:
        return TEXT if unsaid == "text" else ANY
    if kinds >= ANY:
        return ANY if unsaid == "any" else frozenset({"string", "object", "array", "null"})
    return kinds or TEXT


def is_text(begun: str, kinds: Kinds) -> bool:
    """Whether a value that begins so is a string whatever follows; `begun` is nothing but space at first."""
    if kinds <= TEXT:
        return True
    if "string" not in kinds:
        return False
    start = begun[:_LOOK_CHARS].strip()
    if not start:
        return False
    return start[0] not in _STARTS and not any(word.startswith(start) for word in _JSON_WORDS)


def converted(text: str, kinds: Kinds) -> str | None:
    """The JSON text of a value that is no string, digit by digit as it was written; None where it is a string."""
    stripped = text.strip()
    if kinds <= TEXT or not stripped:
        return None
    value = _parsed(stripped)
    if value is not _NO_JSON:
        return _fitting(stripped, value, kinds)
    if "string" not in kinds:
        return WORDS.get(stripped.lower())
    return None


_NO_JSON = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, parse_int=_digits)
    except (ValueError, RecursionError):
        return _NO_JSON


def _refuse(word: str) -> Any:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(word)


def _digits(text: str) -> int:
    """Only the type counts: a number may have more digits than Python reads."""
    return len(text)


def _fitting(text: str, value: Any, kinds: Kinds) -> str | None:
    kind = type_of(value)
    if kind == "string":
        return None if "string" in kinds else text
    fits = kind in kinds or (kind == "integer" and "number" in kinds)
    if not fits and kind == "number" and "integer" in kinds and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return text if fits or "string" not in kinds else None
