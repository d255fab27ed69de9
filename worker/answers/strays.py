"""Whether the end of reasoning or of a call that nothing has begun is markup, or what the answer speaks of.

Models forget the beginning, or end what the prompt has ended already. Prose sets a marker apart: by blanks,
by quotes, in code.
"""

from __future__ import annotations

_FENCE = "```"
_SENTENCE_ENDS = frozenset(".!?:;)]}…。！？")  # noqa: RUF001 (full-width ones end sentences, too)


def may_be_stray(before: str, marker: str, start: str) -> bool:
    """By what stands `before` it, if the answer has not written its `start` (empty: there is none)."""
    if is_fenced(before) or (start and before.count(start) > before.count(marker)):
        return False
    return before.endswith("\n") or _ends_words(before[-1:])


def is_stray(behind: str) -> bool | None:
    """By what stands behind it, None while that is white space that may end its line."""
    line = behind.lstrip(" \t")
    if not line:
        return None
    return line[0] in "\r\n" or (line == behind and line[0].isalnum())


def is_phrase(marker: str) -> bool:
    """Whether a marker is made of words, which mean themselves."""
    return " " in marker


def is_fenced(before: str) -> bool:
    """Whether a code fence is open."""
    return before.count(_FENCE) % 2 == 1


def _ends_words(char: str) -> bool:
    return char.isalnum() or char in _SENTENCE_ENDS
