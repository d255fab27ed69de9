"""What is the beginning of a call, and no text, where generation is cut before the call has a name.

Markup that was never finished is none of an answer: a client would show it as the answer's text, and send it back. What
may as well be text is text: prose behind a marker, JSON without one that names no tool.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# Of a marker that is cut itself: signs, and enough of a word to be no other tag and no operator.
_MARKER = re.compile(r"[^\w\s`]+\w{3}")
_WORDS = re.compile(r"[^\W\d]{2,} [^\W\d]{2,} [^\W\d]")
_MARKUP = "{[<"
_NAMED = ('{"name":"', '{"tool_name":"', '{"type":"function","name":"', '{"function":"', '{"function":{"name":"')


def is_marker_begun(text: str) -> bool:
    """Of a text with which a marker begins: whether it is too much of one to be anything else."""
    return _MARKER.match(text) is not None


def is_call_begun(text: str, marker: str) -> bool:
    """Whether a text that begins with a marker of calls is one that was cut before its name, and not prose."""
    inside = text.removeprefix(marker).lstrip()
    return not inside or inside[0] in _MARKUP or _WORDS.search(inside) is None


def begins_markup(text: str, markers: Collection[str]) -> bool:
    """Whether what stands behind a call begins, or may begin, the markup of another or the end of their region."""
    begun = text.strip()
    if not begun:
        return False
    return any(
        marker.startswith(begun) or (begun.startswith(marker) and is_call_begun(begun, marker)) for marker in markers
    )


def names_tool(text: str, names: Collection[str], *, is_own: bool) -> bool:
    """Whether a text without markers, JSON or Python, goes on to name one of the tools (`names` are case folded).
    `is_own`: that is how the model writes calls, so that the beginning of a call's JSON is enough."""
    begun = "".join(text.split())
    if begun.startswith("[") and begun[1:2] not in ("{", ""):
        return _begins_name(begun[1:], names)
    begun = begun.lstrip("[,;")
    if any(opening.startswith(begun) for opening in _NAMED):
        return is_own
    return any(
        begun.startswith(opening) and _begins_name(begun.removeprefix(opening), names, is_own=is_own)
        for opening in _NAMED
    )


def _begins_name(text: str, names: Collection[str], *, is_own: bool = False) -> bool:
    word = re.split(r"[\"(]", text)
    name = word[0].casefold()
    if len(word) > 1:
        return name in names
    return (bool(name) or is_own) and any(known.startswith(name) for known in names)
