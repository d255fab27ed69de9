"""Where a template's output may be cut: never inside a marker, be it a control token or a tag like `</think>`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.prompt.sequences import common_length

_TAG = r"<[^<>\s]{1,64}>"
_LONGEST = 128


class Markers:
    """Control tokens and whatever else looks like a tag."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        longest_first = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        self._tokens = longest_first
        self._find = re.compile("|".join([*map(re.escape, longest_first), _TAG]))

    def common(self, one: str, other: str) -> int:
        """Length of the common prefix, whole markers only."""
        at = common_length(one, other)
        return min(self._before(one, at), self._before(other, at))

    def common_ending(self, one: str, other: str) -> str:
        """The common suffix, whole markers only."""
        length = common_length(one[::-1], other[::-1])
        behind = min(len(text) - self._behind(text, len(text) - length) for text in (one, other))
        return one[len(one) - behind :]

    def last(self, text: str) -> str:
        """The control token with which a text ends; empty when it ends otherwise."""
        return next((token for token in self._tokens if text.endswith(token)), "")

    def first(self, text: str) -> str:
        """The marker with which a text begins."""
        found = self._find.match(text)
        return found[0] if found else ""

    def _around(self, text: str, at: int) -> re.Match[str] | None:
        matches = self._find.finditer(text, max(0, at - _LONGEST), at + _LONGEST)
        return next((match for match in matches if match.start() < at < match.end()), None)

    def _before(self, text: str, at: int) -> int:
        around = self._around(text, at)
        return at if around is None else around.start()

    def _behind(self, text: str, at: int) -> int:
        around = self._around(text, at)
        return at if around is None else around.end()
