"""A budget for reasoning: when it is used up, the tokens that close it are forced one by one, and the answer goes on.

What is forced depends on the tokens alone, never on how they came: one by one, several at once from a draft, or from an
earlier attempt. The device runs a step ahead of the host, which is waited for only where the next token may be the last
of the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from worker.engines.tokens.closing import Closing

_RUN_TOKENS = 32  # more than are ever drafted at once


class Reader(Protocol):
    """What tells reasoning from the rest of an answer."""

    @property
    def is_reasoning(self) -> bool: ...

    def feed(self, token: int) -> object: ...


class ThinkingBudget:
    """Of one answer; on the engine's thread. The budget counts the tokens of all reasoning, its closing included.
    `handed` are the answer's tokens as far as the host has them, `reader` has read none of them yet."""

    def __init__(self, reader: Reader, handed: Sequence[int], budget_tokens: int, closing: Closing) -> None:
        self._reader = reader
        self._handed = handed
        self._closing = closing
        self._limit = max(0, budget_tokens - len(closing.steps))
        self._used = 0
        self._counted = 0  # tokens that went into the model
        self._read = 0  # of these, those that are known here
        self._step: int | None = None  # of the closing, once it has begun
        self._look()

    @property
    def demanded(self) -> tuple[int, ...]:
        """One of these tokens comes next; empty: any may."""
        if self._step is None or self._is_closed:
            return ()
        return self._closing.steps[self._step]

    @property
    def barred(self) -> tuple[int, ...]:
        return self._closing.barred if self._is_closed else ()

    @property
    def may_draft(self) -> bool:
        """Whether a run of drafted tokens cannot reach the end of the budget."""
        if self._step is not None:
            return self._is_closed
        return self._used + self._counted - self._read + _RUN_TOKENS < self._limit

    @property
    def _is_closed(self) -> bool:
        return self._step == len(self._closing.steps)

    def count(self, token: mx.array) -> None:
        """Note a token, shape [], that goes into the model now. All before it are in `handed`."""
        self._counted += 1
        self._catch_up()
        if self._read == self._counted:
            return
        if self._step is not None:
            self._read += 1
            self._advance()
        elif self._used + 1 >= self._limit:
            value: Any = token.item()
            self._feed(value)

    def pass_over(self, count: int) -> None:
        """Note tokens that went into the model together; they come to be in `handed`."""
        self._counted += count

    def replay(self, tokens: Sequence[int]) -> None:
        """Go to where these tokens lead, which are in `handed`."""
        self._counted += len(tokens)
        self._catch_up()

    def _catch_up(self) -> None:
        for token in self._handed[self._read : self._counted]:
            self._feed(token)

    def _feed(self, token: int) -> None:
        self._read += 1
        if self._step is not None:
            self._advance()
            return
        was_reasoning = self._reader.is_reasoning
        self._reader.feed(token)
        self._used += was_reasoning or self._reader.is_reasoning
        self._look()

    def _look(self) -> None:
        """Nothing is left: what is open is closed, and nothing is opened."""
        if self._used >= self._limit and (self._used or self._reader.is_reasoning):
            self._step = 0 if self._reader.is_reasoning else len(self._closing.steps)

    def _advance(self) -> None:
        if self._step is not None and not self._is_closed:
            self._step += 1
