"""What a board is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "stack", "tile", "heatmap", "timeline", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """`legend` is Grafana's, with labels in double braces."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`unit` is Grafana's word. `words` replace values of a tile or timeline. `width` is of 24."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "lines"
    help: str = ""
    orange: float | None = None
    red: float | None = None
    empty: str = "nothing yet"
    words: tuple[tuple[str, str, str], ...] = ()  # value, word, colour
    width: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]
    by_host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    uid: str
    title: str
    rows: tuple[Row, ...]
    about: str = ""
