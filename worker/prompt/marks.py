"""Where the prefixes that a request's trail names lie in its prompt's tokens."""

from __future__ import annotations

from collections.abc import Sequence

from shared.request import GenerateRequest
from shared.trail import decode_trail
from worker.prompt.values import Boundary


def marks_of(request: GenerateRequest, boundaries: Sequence[Boundary]) -> tuple[tuple[bytes, int], ...]:
    """(tag, depth in tokens). A template that begins with the tools has a boundary behind them; a raw prompt is all
    head, whose places are told from bytes."""
    offsets = {boundary.kind: boundary.offset for boundary in boundaries}
    trail = decode_trail(request.trail)
    if request.is_raw:
        return trail.places(head_tokens=offsets.get("prompt", 0), tools_tokens=None, ends={})
    ends = {boundary.index: boundary.offset for boundary in boundaries if boundary.kind in ("message", "prompt")}
    head = offsets.get("system", 0)
    if head and request.messages[0].role == "system":
        ends[0] = head
    return trail.places(head_tokens=head, tools_tokens=offsets.get("tools"), ends=ends)
