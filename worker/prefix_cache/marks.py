"""Names that others have for prefixes: where each lies in the tree, and which of them could be resumed now.

Who routes requests knows conversations by tags and has no tokenizer; only here it is known where the prefix behind a
tag ends in tokens, and whether it is still there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.node import Node, P

Mark = tuple[bytes, int]  # tag, depth in tokens
_MOST_SESSIONS = 8  # that one node names


@dataclass(frozen=True, slots=True, kw_only=True)
class Residents:
    """By tag, the tokens that need not be computed: of what is in memory, and of what has a stored copy."""

    memory: dict[bytes, int] = field(default_factory=dict)
    stored: dict[bytes, int] = field(default_factory=dict)


NOBODY = Residents()


def mark(index: PrefixIndex[P], node: Node[P], marks: Iterable[Mark], session: str = "") -> None:
    """Note the marks on the way to `node`, and which session came through; marks beyond its end lie in what was not
    kept."""
    path = index.path(node)
    for member in path if session else ():
        if member.sessions[-1:] != (session,):
            others = (each for each in member.sessions if each != session)
            member.sessions = (*others, session)[-_MOST_SESSIONS:]
    for tag, depth in marks:
        holder = next((each for each in path if each.start < depth <= each.end), None)
        if holder is not None:
            holder.marks[tag] = depth


def find_residents(index: PrefixIndex[P]) -> Residents:
    """What of all that was marked could be resumed: at its depth where payloads can be cut anywhere, else at the last
    checkpoint before it."""
    found = Residents()
    stack = [(top, True, True, 0) for root in index.roots() for top in root.each_child()]
    while stack:
        node, in_memory, is_stored, checkpoint = stack.pop()
        in_memory, is_stored = in_memory and node.payload is not None, is_stored and node.stored is not None
        if not (in_memory or is_stored):
            continue
        for tag, depth in node.marks.items():
            at_end = node.is_checkpoint and depth == node.end
            tokens = depth if index.is_divisible or at_end else checkpoint
            for known, resident in ((in_memory, found.memory), (is_stored, found.stored)):
                if known and tokens:
                    resident[tag] = max(tokens, resident.get(tag, 0))
        below = node.end if node.is_checkpoint else checkpoint
        stack.extend((child, in_memory, is_stored, below) for child in node.each_child())
    return found
