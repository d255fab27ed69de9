"""How many tokens a request takes at a server that counts for itself: learned from what it has reported."""

from __future__ import annotations

from typing import Any

from shared.exact import dump_bytes

_FIRST_BYTES_PER_TOKEN = 4.0
_LIKELY = (1.5, 20.0)  # bytes a token: a report beyond it is about a template or an image, or a lie
_SHARE = 0.3  # of the last report
_LEAST_TOKENS = 64  # fewer are mostly the template's
_SURELY = 1.3  # as much as an estimate may be too large where it was learned
_UNLEARNED = 2.0  # and where it was not
_FULL = 0.8  # of the window


class Estimate:
    """Thread-safe enough: a float is replaced whole."""

    def __init__(self) -> None:
        self._bytes_per_token = _FIRST_BYTES_PER_TOKEN
        self._is_learned = False

    def tokens(self, body: Any) -> int:
        return int(len(dump_bytes(body)) / self._bytes_per_token)

    def learn(self, body: Any, tokens: int | None) -> None:
        if tokens is None or tokens < _LEAST_TOKENS:
            return
        seen = len(dump_bytes(body)) / tokens
        if not _LIKELY[0] <= seen <= _LIKELY[1]:
            return
        before = self._bytes_per_token if self._is_learned else seen
        self._bytes_per_token = (1 - _SHARE) * before + _SHARE * seen
        self._is_learned = True

    def is_too_long(self, tokens: int, window: int) -> bool:
        """Whether it is certain."""
        return bool(window) and tokens > window * (_SURELY if self._is_learned else _UNLEARNED)

    def may_be_full(self, tokens: int, window: int) -> bool:
        return bool(window) and tokens > window * _FULL
