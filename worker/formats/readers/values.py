"""One argument's value in a markup family: streamed as a JSON string where it is certain to be one, else read whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, Protocol

from worker.formats.readers.json_text import escape
from worker.formats.readers.region import dumps

# What a parser raises on text that is not what it reads: its own words, and what falls out of `json`, `ast` and `re`
# on whatever a model may write.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,  # `ast`, on brackets nested too deep
    RuntimeError,  # RecursionError is one
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    re.error,
)

Trim = Literal["none", "newline", "space"]


class Value(Protocol):
    def feed(self, text: str) -> str:
        """JSON text that has become certain."""

    def end(self) -> str:
        """The rest of the value's JSON."""

    def cut(self) -> str:
        """What is known of the rest when generation stops inside the value."""

    def verbatim(self) -> Value:
        """The same, for a value in a CDATA section: its outer whitespace belongs to it."""


class TextValue:
    """A value that is a string whatever it says, or `null` where the family reads that word so.

    `trim`: "newline" drops one line break at each end, "space" all whitespace at both ends.
    """

    def __init__(self, trim: Trim, *, null: bool) -> None:
        self._trim = trim
        self._null = null
        self._trimmed = trim == "none"
        self._begun = False
        self._held = ""

    def feed(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        if not self._trimmed and text:
            text = text.lstrip() if self._trim == "space" else text.removeprefix("\n")
            self._trimmed = bool(text) or self._trim == "newline"
        if not text:
            return ""
        opening = ""
        if not self._begun:
            if self._null and "null".startswith(self._without_end(text).lower()):
                self._held = text
                return ""
            self._begun = True
            opening = '"'
        certain = self._without_end(text)
        self._held = text[len(certain) :]
        return opening + escape(certain)

    def _without_end(self, text: str) -> str:
        if self._trim == "space":
            return text.rstrip()
        return text.removesuffix("\n") if self._trim == "newline" else text

    def end(self) -> str:
        if self._begun:
            return '"'
        text = self._without_end(self._held)
        return "null" if self._null and text.lower() == "null" else f'"{escape(text)}"'

    def cut(self) -> str:
        return ("" if self._begun else '"') + escape(self._held)

    def verbatim(self) -> Value:
        return TextValue("none", null=self._null)


class WholeValue:
    """A value whose type shows only when it is whole. `convert` raises for text that is not of its type, which
    is then passed on as a string: the client says what is wrong with it."""

    def __init__(self, convert: Callable[[str], Any], *, trim: bool = True) -> None:
        self._convert = convert
        self._trim = trim
        self._pieces: list[str] = []

    def feed(self, text: str) -> str:
        self._pieces.append(text)
        return ""

    def end(self) -> str:
        text = "".join(self._pieces)
        try:
            return dumps(self._convert(text))
        except UNREADABLE:
            return dumps(text.strip() if self._trim else text)

    def cut(self) -> str:
        return "".join(self._pieces)

    def verbatim(self) -> Value:
        return WholeValue(lambda text: self._convert(f"<![CDATA[{text}]]>"), trim=False)


class JsonOrText:
    """JSON when it parses, else a trimmed string, streamed as soon as it cannot be JSON any more."""

    _WORDS = ("true", "false", "null", "NaN", "Infinity")

    def __init__(self) -> None:
        self._text: TextValue | None = None
        self._held = ""

    def feed(self, text: str) -> str:
        if self._text is not None:
            return self._text.feed(text)
        self._held += text
        start = self._held.strip()
        if not start or start[0] in '{["-0123456789' or any(word.startswith(start) for word in self._WORDS):
            return ""
        self._text = TextValue("space", null=False)
        return self._text.feed(self._held)

    def end(self) -> str:
        if self._text is not None:
            return self._text.end()
        try:
            return dumps(json.loads(self._held))
        except (ValueError, RecursionError):
            return dumps(self._held.strip())

    def cut(self) -> str:
        return self._text.cut() if self._text is not None else self._held

    def verbatim(self) -> Value:
        return self
