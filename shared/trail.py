"""Names of a conversation's prefixes, for those who never see its tokens.

A tag stands for everything up to some place in a conversation: equal tags, equal beginnings. Gateways make them with a
key, from what they send anyway; workers, which know where in the prompt's tokens such a place lies, tell which tags'
tokens they hold. So a gateway knows what is cached where without a tokenizer.

There is a tag for the end of each message, the head (tools and system text) included, and one for each `PIECE_BYTES` of
the head: of two projects of one client, heads differ late. Which comes first there is the template's affair, so that
heads have a row of tags for either order; a worker uses the one that is true for its template.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import WireError

TAG_BYTES = 16
PIECE_BYTES = 4096
MOST_PIECES = 64  # of a head, for either order
_HEAD = struct.Struct("!BBBIII")
_VERSION = 1
_CERTAIN = 0.95  # of a place that is only estimated, from bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """`tools_first` and `system_first` are the tags of the head's pieces in either order, `messages` those of the ends
    of messages. `tools_bytes` of the `head_bytes` are tools; `text_bytes` is how long the text of all is."""

    tools_first: tuple[bytes, ...] = ()
    system_first: tuple[bytes, ...] = ()
    messages: tuple[bytes, ...] = ()
    tools_bytes: int = 0
    head_bytes: int = 0
    text_bytes: int = 0

    def encode(self) -> bytes:
        """As it travels: opaque to whoever does not know it."""
        counts = (len(self.tools_first), len(self.system_first))
        head = _HEAD.pack(_VERSION, *counts, self.tools_bytes, self.head_bytes, self.text_bytes)
        return head + b"".join((*self.tools_first, *self.system_first, *self.messages))

    def places(
        self, *, head_tokens: int, tools_tokens: int | None, ends: Mapping[int, int]
    ) -> tuple[tuple[bytes, int], ...]:
        """(tag, depth in tokens). `head_tokens` is where the head ends, `tools_tokens` where the tools end in a
        template that begins with them, else None; `ends` is where messages end, by index. Places inside the head are
        estimated, a little too early rather than too late."""
        pieces = self.system_first if tools_tokens is None else self.tools_first
        at = [self._estimate((number + 1) * PIECE_BYTES, head_tokens, tools_tokens) for number in range(len(pieces))]
        found = [*zip(pieces, at, strict=True)]
        found += [(self.messages[index], end) for index, end in ends.items() if index < len(self.messages)]
        return tuple((tag, depth) for tag, depth in found if depth > 0)

    def _estimate(self, at_bytes: int, head_tokens: int, tools_tokens: int | None) -> int:
        tools_tokens = tools_tokens or 0
        if at_bytes <= self.tools_bytes and tools_tokens:
            return int(_CERTAIN * tools_tokens * at_bytes / self.tools_bytes)
        before_bytes = self.tools_bytes if tools_tokens else 0
        share = (at_bytes - before_bytes) / max(1, self.head_bytes - before_bytes)
        return tools_tokens + int(_CERTAIN * (head_tokens - tools_tokens) * min(1.0, share))


def decode_trail(data: bytes) -> Trail:
    """Empty for no bytes and for a version that is not known here: it is help, not a contract. Raises `WireError` for
    what cannot be one."""
    if not data or data[0] != _VERSION:
        return Trail()
    tags_bytes = len(data) - _HEAD.size
    if tags_bytes < 0 or tags_bytes % TAG_BYTES:
        raise WireError(f"a trail of {len(data)} bytes")
    _, first, second, tools_bytes, head_bytes, text_bytes = _HEAD.unpack_from(data)
    tags = [data[at : at + TAG_BYTES] for at in range(_HEAD.size, len(data), TAG_BYTES)]
    if first + second > len(tags):
        raise WireError(f"a trail with {len(tags)} of {first + second} tags")
    return Trail(
        tools_first=tuple(tags[:first]),
        system_first=tuple(tags[first : first + second]),
        messages=tuple(tags[first + second :]),
        tools_bytes=tools_bytes,
        head_bytes=head_bytes,
        text_bytes=text_bytes,
    )
