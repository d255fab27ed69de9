"""Markers in text that arrives in pieces: where one is, and where one may be beginning."""

from __future__ import annotations

from collections.abc import Sequence


def find_first(text: str, markers: Sequence[str], at: int = 0) -> tuple[int, str]:
    """Position of the marker that begins first (of several at one place the longest), and the marker. Without one:
    the position from which text must be kept because it may become a marker, and ""."""
    if not any(marker[0] in text for marker in markers):
        return len(text), ""
    best, found = len(text), ""
    for marker in markers:
        position = text.find(marker, at)
        if position >= 0 and (position, -len(marker)) < (best, -len(found)):
            best, found = position, marker
    keep = min((partial(text, marker, at) for marker in markers), default=len(text))
    # A marker still unfinished before the one found would begin first.
    return (best, found) if found and best <= keep else (min(best, keep), "")


def partial(text: str, marker: str, at: int = 0) -> int:
    """Where the longest ending of `text` that may become `marker` begins; its length when there is none."""
    for position in range(max(at, len(text) - len(marker) + 1), len(text)):
        if marker.startswith(text[position:]):
            return position
    return len(text)
