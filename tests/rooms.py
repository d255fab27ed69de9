"""`python -m tests.rooms`: the rooms of the project, the arrows between them, and those that run back.

A room is a folder with modules. An arrow goes from one room to another when a module here imports a module there. What
lies side by side in one folder, modules and folders alike, has an order in which all imports point down; an import runs
back when it is part of a circle of such neighbours, by itself or through others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set

import grimp

PACKAGES = ("gateway", "worker", "shared")
MOST_DEPTH = 99
Arrow = tuple[str, str]


def build_graph() -> grimp.ImportGraph:
    first, *others = PACKAGES
    return grimp.build_graph(first, *others)


def rooms(graph: grimp.ImportGraph, *, depth: int = MOST_DEPTH) -> list[str]:
    """With `depth` 2 what lies deeper belongs to its package's folder."""
    return sorted({_cut(_room(graph, module), depth) for module in graph.modules if not graph.find_children(module)})


def arrows(graph: grimp.ImportGraph, *, depth: int = MOST_DEPTH) -> Counter[Arrow]:
    """(importing room, imported room) and how many imports it stands for."""
    found = (tuple(_cut(_room(graph, module), depth) for module in each) for each in _imports(graph))
    return Counter((here, there) for here, there in found if here != there)


def back(graph: grimp.ImportGraph) -> list[Arrow]:
    """(importing module, imported module) of the imports that run back, none of which there should be."""
    sides = {each: _neighbours(*each) for each in _imports(graph)}
    edges: dict[str, set[str]] = {}
    for here, there in filter(None, sides.values()):
        edges.setdefault(here, set()).add(there)
    reached = {node: _reached(edges, node) for node in edges}
    return sorted(each for each, side in sides.items() if side and side[0] in reached.get(side[1], ()))


def _imports(graph: grimp.ImportGraph) -> Iterator[Arrow]:
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            yield importer, imported


def _cut(room: str, depth: int) -> str:
    return ".".join(room.split(".")[:depth])


def _room(graph: grimp.ImportGraph, module: str) -> str:
    return module if graph.find_children(module) else module.rpartition(".")[0]


def _neighbours(importer: str, imported: str) -> Arrow | None:
    """The two that lie side by side in the folder that both modules share. A folder's `__init__` lies in it, too; who
    imports what lies below itself, or is imported by it, has its own place there."""
    ours, theirs = [*importer.split("."), "__init__"], [*imported.split("."), "__init__"]
    common = next((place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if common is None:
        return None
    return ".".join(ours[: common + 1]), ".".join(theirs[: common + 1])


def _reached(edges: Mapping[str, Set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(edges.get(start, ()))
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead.extend(edges.get(node, ()))
    return found


def main() -> None:
    graph = build_graph()
    found, between = rooms(graph), arrows(graph)
    print(f"{len(rooms(graph, depth=2))} rooms, {len(arrows(graph, depth=2))} arrows between the packages' folders")
    print(f"{len(found)} rooms, {len(between)} arrows between all folders")
    for room in found:
        theirs = sorted((there, count) for (here, there), count in between.items() if here == room)
        print(f"  {room}: {', '.join(f'{there} ({count})' for there, count in theirs) or '-'}")
    runs_back = back(graph)
    print(f"{len(runs_back)} imports run back")
    for importer, imported in runs_back:
        print(f"  {importer} -> {imported}")


if __name__ == "__main__":
    main()
