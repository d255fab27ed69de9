"""How answers were spelt, listed as spans of the tokens that are kept: their tokens are there already."""

from __future__ import annotations

from typing import Any

from worker.prefix_cache.node import AnswerSpan, Node
from worker.prefix_cache.tokens import slice_tokens, unpack_tokens
from worker.prompt import Spelling

_MAX_REST_TOKENS = 64  # of an answer that were never kept


def span_of(spelling: Spelling, *, start: int, kept: int) -> AnswerSpan | None:
    """The answer that began at depth `start`, when what leads to depth `kept` is kept. The last token of an answer is
    not, where nothing followed it. None when too little of the answer is kept to be worth a note."""
    end = min(start + len(spelling.tokens), kept)
    rest = spelling.tokens[max(0, end - start) :]
    if end <= start or len(rest) > _MAX_REST_TOKENS:
        return None
    return AnswerSpan(key=spelling.key, reasoning=spelling.reasoning, start=start, end=end, rest=rest)


def spelling_in(span: AnswerSpan, prefix: bytes) -> Spelling:
    """The answer again, out of all tokens from the first to its end at the least."""
    tokens = unpack_tokens(slice_tokens(prefix, span.start, span.end))
    return Spelling(span.key, span.reasoning, (*tokens, *span.rest))


def spelling_of(span: AnswerSpan, node: Node[Any]) -> Spelling:
    """The answer again, which ends on the way to `node`."""
    tokens = unpack_tokens(node.between(span.start, span.end))
    return Spelling(span.key, span.reasoning, (*tokens, *span.rest))
