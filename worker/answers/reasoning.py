"""Where an answer changes between text, reasoning and tool calls: modes, the markers that lead out of them, and the
search for markers in text that arrives in pieces.

The result never depends on how the text is cut: the marker that is complete first wins, of two that end at the same
place the longer, and text that may yet become a marker is held back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.formats.reasoning import ENDS

# Modes, by mlx-lm's names for them. A header is routing information of the model's own, not shown.
Mode = str
TEXT: Mode = "normal"
REASONING: Mode = "reasoning"
TOOL: Mode = "tool"
HEADER: Mode = "header"
# Not modes but what a marker in text may lead to besides: a call without its region marker; an end without a start.
BARE_TOOL: Mode = "bare tool"
STRAY: Mode = "stray"
# And the markers around an answer.
WRAP: Mode = "wrap"
UNWRAP: Mode = "unwrap"
# And those between its parts.
BETWEEN: Mode = "between"
# Text that has not begun yet behind a call.
BEHIND: Mode = "behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Markup:
    """How a model's answers are marked up: the markers around reasoning (empty: it has none) and around the answer (as
    in `worker.formats.reasoning`), those that may stand between messages and mean nothing, those that do between the
    parts of an answer only, and, for a model with headers, which markers lead from one mode to which."""

    think_start: str = ""
    think_end: str = ""
    answer_start: str = ""
    answer_end: str = ""
    wraps_always: bool = False
    is_phrase: bool = False
    structural: Sequence[str] = ()
    between: Sequence[str] = ()
    transitions: Mapping[Mode, Sequence[tuple[str, Mode]]] = field(default_factory=dict)
    initial: Mode = TEXT


@dataclass(frozen=True, slots=True)
class Found:
    """`text` comes before the marker and is certain; `marker` is empty when there is none yet; `rest` comes after
    the marker, or is what must be held back."""

    text: str
    marker: str
    rest: str


class Markers:
    """The strings that end one mode, and where each leads. Immutable, shared by all answers of a model."""

    __slots__ = ("_any", "_first", "_longest", "_strings", "targets")

    def __init__(self, targets: Iterable[tuple[str, Mode]]) -> None:
        self.targets = {marker: target for marker, target in targets if marker}
        self._strings = tuple(self.targets)
        self._longest = max(map(len, self._strings), default=0)
        initials = "".join(re.escape(c) for c in sorted({s[0] for s in self._strings}))
        self._first = re.compile(f"[{initials}]" if initials else r"(?!)").search
        self._any = re.compile("|".join(map(re.escape, self._strings)) or r"(?!)").search

    def cannot_match(self, text: str) -> bool:
        """Whether no marker begins in `text`: the fast answer for almost every token."""
        return self._first(text) is None

    def find(self, text: str) -> Found:
        if self._any(text) is not None:
            ends = [(at + len(s), -len(s), s) for s in self._strings if (at := text.find(s)) >= 0]
            end, _, marker = min(ends)
            return Found(text[: end - len(marker)], marker, text[end:])
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            tail = text[at:]
            if any(s.startswith(tail) for s in self._strings):
                return Found(text[:at], "", tail)
        return Found(text, "", "")


def mode_table(
    markup: Markup, *, calls: tuple[str, str] | None, bare_starts: Sequence[str] = ()
) -> dict[Mode, Markers]:
    """Markers of every mode of a model. `calls` are the start and end markers of its tool calls; without them nothing
    leads to a call, and its markup is text. `bare_starts` begin a call whose start marker is missing. Behind a call the
    end of reasoning is no text in any spelling: models that were never seen to reason call while they do."""
    edges: dict[Mode, list[tuple[str, Mode]]] = {TEXT: [], REASONING: [], HEADER: []}
    if markup.think_start and markup.think_end:
        edges[TEXT] += [(markup.think_end, STRAY), (markup.think_start, REASONING)]
        edges[REASONING] += [(markup.think_start, STRAY), (markup.think_end, TEXT)]
    edges[TEXT] += [(markup.answer_start, WRAP), (markup.answer_end, UNWRAP)]
    edges[TEXT] += [(marker, BETWEEN) for marker in markup.between]
    if calls:
        edges[TEXT].append((calls[1], STRAY))
        # A response format that leads to calls itself decides where they begin.
        if all(target != TOOL for pairs in markup.transitions.values() for _, target in pairs):
            edges[TEXT].append((calls[0], TOOL))
        edges[REASONING].append((calls[0], TOOL))
        for mode in (TEXT, HEADER):
            edges[mode] += [(marker, BARE_TOOL) for marker in bare_starts]
    edges[TEXT] += [(marker, TEXT) for marker in markup.structural]
    for mode, pairs in markup.transitions.items():
        edges.setdefault(mode, []).extend(pair for pair in pairs if calls or pair[1] != TOOL)
    edges[BEHIND] = [*((end, STRAY) for end in ENDS), *edges[TEXT]]
    return {mode: Markers(pairs) for mode, pairs in edges.items()}
