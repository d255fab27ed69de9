"""How much of a prompt a request asks to have cached: what stands up to its last `cache_control`.

Everything is kept here, asked or not. What is told is counted as the vendor counts: `cache_creation_input_tokens` is
what was newly computed up to the last breakpoint, `cache_read_input_tokens` what was not computed again, `input_tokens`
the rest; together they are the prompt. Source: https://docs.claude.com/en/docs/build-with-claude/prompt-caching.

Where a breakpoint stands is known here in bytes and not in tokens, which workers count: one that closes the last
message takes the whole prompt, but for the one token that is always computed; any other takes its share of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.events import Usage, known
from shared.exact import dump_bytes

_MARK: Final = "cache_control"
_AN_HOUR: Final = "1h"
_BINARY_BYTES: Final = 4096  # for an image or a document, whose data says nothing of its tokens


@dataclass(frozen=True, slots=True)
class Written:
    """Tokens that were newly written to a cache, by how long they were asked to be kept."""

    minutes_tokens: int = 0
    hour_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.minutes_tokens + self.hour_tokens


@dataclass(frozen=True, slots=True)
class Breakpoints:
    """The shares of the prompt, from 0 to 1, up to the last breakpoint of all and to the last that asks for an hour; 0
    where there is none."""

    share: float = 0.0
    hour_share: float = 0.0

    def written(self, usage: Usage) -> Written:
        """Of a prompt that a worker has counted."""
        whole, read = known(usage.input_tokens), known(usage.cached_tokens)
        upto, upto_hour = (min(int(whole * share), whole - 1) for share in (self.share, self.hour_share))
        hour_tokens = max(upto_hour - read, 0)
        return Written(max(upto - read, 0) - hour_tokens, hour_tokens)


NONE: Final = Breakpoints()


def asked_breakpoints(body: Mapping[str, Any]) -> Breakpoints:
    """What a body that was parsed asks for. `cache_control` of the body itself stands at the end."""
    pieces = list(_pieces(body))
    marks = [_mark(piece) for piece in pieces]
    if not any(marks) and not isinstance(body.get(_MARK), Mapping):
        return NONE
    marks[-1:] = [marks[-1] | _mark(body)]
    last = max(at for at, mark in enumerate(marks) if mark)
    last_hour = max((at for at, mark in enumerate(marks) if _AN_HOUR in mark), default=-1)
    if last_hour in (-1, last) and last == len(pieces) - 1:
        return Breakpoints(1.0, 1.0 if last_hour == last else 0.0)
    sizes = [_size_bytes(piece) for piece in pieces]
    whole = sum(sizes) or 1
    return Breakpoints(sum(sizes[: last + 1]) / whole, sum(sizes[: last_hour + 1]) / whole)


def _pieces(body: Mapping[str, Any]) -> Iterator[Any]:
    """What can carry a breakpoint, in the order in which it stands in the prompt: tools, system, messages."""
    yield from body.get("tools") or ()
    yield from _blocks(body.get("system"))
    for message in body.get("messages") or ():
        yield from _blocks(message.get("content"))


def _blocks(content: Any) -> Iterator[Any]:
    yield from content if isinstance(content, list) else (content or "",)


def _mark(piece: Any) -> frozenset[str]:
    """The lifetimes that the piece, or a block within it, asks for."""
    if not isinstance(piece, Mapping):
        return frozenset()
    mark = piece.get(_MARK)
    own = frozenset({str(mark.get("ttl") or "5m")}) if isinstance(mark, Mapping) else frozenset()
    within = piece.get("content")
    return own.union(*map(_mark, within)) if isinstance(within, list) else own


def _size_bytes(piece: Any) -> int:
    if isinstance(piece, Mapping) and isinstance(piece.get("source"), Mapping):
        return _BINARY_BYTES
    return len(dump_bytes(piece))
