"""A text in pieces that can be said one after another: sentences, short ones together."""

from __future__ import annotations

import re
from typing import Final

_LEAST: Final = 60  # characters; a shorter piece sounds cut off
_MOST: Final = 300  # which models of speech say well at once
_ENDS: Final = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")  # noqa: RUF001 - signs of other scripts


def pieces_of(text: str) -> list[str]:
    """None where there is nothing to say."""
    found: list[str] = []
    for sentence in _sentences(text):
        if found and len(found[-1]) < _LEAST and len(found[-1]) + len(sentence) < _MOST:
            found[-1] = f"{found[-1]} {sentence}"
        else:
            found.append(sentence)
    return found


def _sentences(text: str) -> list[str]:
    found: list[str] = []
    begin = 0
    for match in _ENDS.finditer(text):
        found += _cut(text[begin : match.end()].strip())
        begin = match.end()
    return [*found, *_cut(text[begin:].strip())]


def _cut(sentence: str) -> list[str]:
    """At spaces, where it is too long."""
    found: list[str] = []
    while len(sentence) > _MOST:
        at = sentence.rfind(" ", 1, _MOST)
        at = _MOST if at < 0 else at
        found.append(sentence[:at].strip())
        sentence = sentence[at:].strip()
    return [*found, sentence] if sentence else found
