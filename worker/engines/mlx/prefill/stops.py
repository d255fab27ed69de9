"""Where the prefill of a prompt stops to keep what was computed, for caches that can be resumed nowhere else.

The boundaries that the prompt knows are not enough: a client may write its project's path into the middle of its system
text, and then no two projects share one. So where a prompt parts from what was kept inside the head, that is a stop,
too: the second prompt of a kind computes all of its head, and every later one goes on from there.
"""

from __future__ import annotations

from worker.prompt import Prompt

LEAST_SPACING_TOKENS = 32  # between kept depths: each costs a pass of its own where layers have state


def stops_of(prompt: Prompt, *, depth: int, parted: int | None, spacing: int) -> tuple[int, ...]:
    """The depths beyond `depth` at which to keep what was computed: the prompt's boundaries, and `parted`, up to which
    others are known that go on differently. Ends of messages and `parted` are `spacing` tokens apart from others."""
    stops: list[int] = []
    for boundary in prompt.boundaries:
        last = stops[-1] if stops else depth
        if boundary.offset <= depth or (boundary.kind == "message" and boundary.offset - last < spacing):
            continue
        stops.append(boundary.offset)
    if parted is None or parted >= head_end(prompt):
        return tuple(stops)
    near = (depth, *stops)
    return tuple(stops) if any(abs(parted - stop) < spacing for stop in near) else tuple(sorted((*stops, parted)))


def head_end(prompt: Prompt) -> int:
    """Tokens of tools and system text; 0 where the prompt has none."""
    return next((boundary.offset for boundary in prompt.boundaries if boundary.kind == "system"), 0)


def parting(prompt: Prompt, common: int) -> str:
    """The part of the prompt in which it first differs from what was kept, of which it shares `common` tokens."""
    boundary = next((b for b in prompt.boundaries if b.offset > common), None)
    if boundary is None:
        return "prompt"
    return f"message {boundary.index}" if boundary.kind == "message" else boundary.kind
