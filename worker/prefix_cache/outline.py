"""A tree of prefixes told in pieces: runs of nodes that the same sessions came through are one."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from shared.pieces import Piece
from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.node import Node

MOST_PIECES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """`more` pieces are not told."""

    pieces: tuple[Piece, ...] = ()
    more: int = 0


def outline(index: PrefixIndex[Any], *, most: int = MOST_PIECES) -> Outline:
    """Level by level from the roots, so that what is left out is what only few prompts share."""
    ends = deque((top, b"") for root in index.roots() for top in root.each_child())
    pieces: list[Piece] = []
    more = 0
    while ends:
        first, above = ends.popleft()
        run = _run(first)
        if len(pieces) < most:
            pieces.append(_piece(run, above))
        else:
            more += 1
        ends.extend((child, first.key) for child in run[-1].each_child())
    return Outline(pieces=tuple(pieces), more=more)


def drop(index: PrefixIndex[Any], keys: Collection[bytes]) -> int:
    """Take the pieces that begin with these nodes out of the tree, and all below them; what a request needs now stays,
    with what leads there. How many nodes went."""
    doomed: dict[Node[Any], None] = {}
    stack = [node for node in index.nodes() if node.key in keys]
    while stack:
        node = stack.pop()
        doomed[node] = None
        stack.extend(child for child in node.each_child() if child not in doomed)
    return sum(index.forget(node) for node in sorted(doomed, key=lambda node: -node.start))


def _run(first: Node[Any]) -> list[Node[Any]]:
    run = [first]
    while len(below := list(run[-1].each_child())) == 1 and below[0].sessions == first.sessions:
        run.append(below[0])
    return run


def _piece(run: list[Node[Any]], above: bytes) -> Piece:
    return Piece(
        key=run[0].key,
        above=above,
        start=run[0].start,
        end=run[-1].end,
        memory_bytes=sum(node.payload.nbytes for node in run if node.payload is not None),
        stored_bytes=sum(map(_stored_bytes, run)),
        uses=max(node.uses for node in run),
        sessions=run[0].sessions,
        is_in_use=any(node.pins or node.holds for node in run),
    )


def _stored_bytes(node: Node[Any]) -> int:
    """Its part of a copy that it may share with others."""
    stored = node.stored
    return 0 if stored is None else stored.nbytes * (node.end - node.start) // (stored.end - stored.start)
