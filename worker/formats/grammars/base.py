"""What the grammar of every call format is to the constraint compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shared.request import ToolDefinition
from worker.formats.grammars.lark import Rules


class UnwritableError(Exception):
    """The tool cannot be called in this format; the text says why. It never reaches a client as an error."""


class CallForm(Protocol):
    """One format: what stands in a region between the markers of `worker.tool_calls`."""

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        """A rule for one call of the tool. Raises `UnwritableError`."""

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        """The rest of a region after its start marker, its end marker included, with calls by these rules: exactly
        one unless `parallel`. With an empty `end` nothing may follow."""
