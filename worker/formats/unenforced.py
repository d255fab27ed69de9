"""What a schema says and no grammar enforces, as warnings for the client that sent it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# One warning names so many places and counts the rest.
_MOST_PLACES = 5


@dataclass(frozen=True, slots=True)
class Unenforced:
    """A keyword, the path of the property that it is said of (empty: of the whole), and the tool whose schema it is
    (empty: the answer's)."""

    keyword: str
    path: str = ""
    tool: str = ""


def warnings_of(dropped: Iterable[Unenforced]) -> list[str]:
    """One line for each keyword of each schema."""
    places: dict[tuple[str, str], dict[str, None]] = {}
    for one in dropped:
        places.setdefault((one.keyword, one.tool), {})[one.path] = None
    return [_line(keyword, tool, list(paths)) for (keyword, tool), paths in places.items()]


def _line(keyword: str, tool: str, paths: list[str]) -> str:
    named = [f"`{path}`" for path in paths if path]
    shown = ", ".join(named[:_MOST_PLACES])
    if len(named) > _MOST_PLACES:
        shown += f" and {len(named) - _MOST_PLACES} more"
    place = ": ".join(part for part in (f"tool `{tool}`" if tool else "", shown) if part)
    return f"`{keyword}` is not enforced" + (f" ({place})" if place else "")


def joined(path: str, *steps: str) -> str:
    """A path and what leads on from it: names with dots between them, `[]` for the items of a list."""
    for step in steps:
        path += step if step == "[]" or not path else f".{step}"
    return path
