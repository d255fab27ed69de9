"""What a span is to whoever tells one, and the one that tells nobody."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Literal, Protocol

Value = str | int | float | bool | list[str]
Kind = Literal["server", "consumer"]
_PER_S: Final = 1_000_000_000


class Span(Protocol):
    """Moments are those of the monotonic clock."""

    @property
    def traceparent(self) -> str:
        """What another process hangs its spans on; empty for nothing."""

    def stage(self, name: str, began_s: float, ended_s: float) -> None:
        """A part of it that is over."""

    def end(self, name: str, told: Mapping[str, Value | None], *, error: str = "", text: str = "") -> None:
        """With its final name, all that is known (None is left out), and a word for what went wrong, if anything."""


class _NoSpan:
    traceparent = ""

    def stage(self, name: str, began_s: float, ended_s: float) -> None:
        pass

    def end(self, name: str, told: Mapping[str, Value | None], *, error: str = "", text: str = "") -> None:
        pass


NO_SPAN: Final = _NoSpan()


def moment_ns(monotonic_s: float) -> int:
    """The same moment in Unix time."""
    return int((time.time() - time.monotonic() + monotonic_s) * _PER_S)
