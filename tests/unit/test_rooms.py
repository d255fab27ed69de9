"""All imports of the project point down, from folder to folder and inside each."""

from __future__ import annotations

import grimp
import pytest

from tests.rooms import arrows, back, build_graph, rooms


def graph_of(*imports: tuple[str, str]) -> grimp.ImportGraph:
    graph = grimp.ImportGraph()
    for pair in imports:
        for module in pair:
            for end in range(1, module.count(".") + 2):
                graph.add_module(".".join(module.split(".")[:end]))
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    return graph


def test_no_import_runs_back() -> None:
    assert back(build_graph()) == []


def test_rooms_are_folders_with_modules_and_arrows_go_between_them() -> None:
    graph = graph_of(("p.a.x", "p.b.y"), ("p.a.z", "p.b.y"), ("p.a.x", "p.a.z"), ("p.main", "p.a.x"))
    assert rooms(graph) == ["p", "p.a", "p.b"]
    assert arrows(graph) == {("p.a", "p.b"): 2, ("p", "p.a"): 1}


@pytest.mark.parametrize(
    "imports",
    [
        [("p.main", "p.a.x"), ("p.a.x", "p.values")],  # a folder between two modules of its parent
        [("p.a.x", "p.b.y"), ("p.a.x", "p.c.z"), ("p.b.y", "p.c.z")],
        [("p.a", "p.a.x"), ("p.b.y", "p.a")],  # a folder that shows what lies in it
    ],
)
def test_what_points_down_does_not_run_back(imports: list[tuple[str, str]]) -> None:
    assert back(graph_of(*imports)) == []


@pytest.mark.parametrize(
    "imports",
    [
        [("p.a.x", "p.b.y"), ("p.b.z", "p.a.w")],  # two folders, by way of different modules
        [("p.a.x", "p.b.x"), ("p.b.x", "p.c.x"), ("p.c.x", "p.a.y")],
        [("p.main", "p.a.x"), ("p.a.y", "p.main")],
        [("p.a", "p.a.x"), ("p.a.x", "p.a")],  # a module that asks its own folder
    ],
)
def test_what_lies_in_a_circle_runs_back(imports: list[tuple[str, str]]) -> None:
    assert back(graph_of(*imports)) == sorted(imports)
    assert back(graph_of(*imports, ("p.top", "p.a.x"))) == sorted(imports)
