"""What the item in a Mac's menu bar says. `rumps`, which draws it, is macOS's and stood in for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.command import menu
from gateway.command.menu import give_order, read_overview, run_menu, shown
from gateway.overview import render_overview
from shared.config import Settings
from shared.errors import ConfigError
from shared.registry import Fleet, HostRecord, ModelRecord
from tests.support.fleet import lease

MODELS = (
    ModelRecord(id="big", source="big", state="loading", load_done=0.5),
    ModelRecord(id="small", source="small", state="ready"),
    ModelRecord(id="rest", source="rest", state="unloaded"),
)


def overview(running: int = 0) -> dict[str, Any]:
    worker = lease("small", decode_tokens_per_s=41.6, metrics={"running": float(running)})
    told = render_overview(Fleet(hosts=(HostRecord(host="studio", pid=1, models=MODELS),), workers=(worker,)))
    return told | {"running": [{}] * running}


def test_while_nothing_answers_it_says_so() -> None:
    assert shown(None).line == "nothing answers yet"


def test_each_model_is_a_line_whose_click_loads_or_unloads_it() -> None:
    assert shown(overview()).models == (
        ("◐ big on studio 50%", "unload", "big"),
        ("● small on studio", "unload", "small"),
        ("○ rest on studio", "load", "rest"),
    )


def test_the_rate_is_in_the_bar_while_something_runs() -> None:
    assert (shown(overview()).title, shown(overview()).line) == ("mlx", "idle")
    assert (shown(overview(2)).title, shown(overview(2)).line) == ("mlx 42/s", "2 running, 42 tokens a second")


def test_where_nothing_runs_nothing_is_asked(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert read_overview(settings) is None
    assert give_order(settings, "load", "small") == ""


def test_without_rumps_the_line_that_installs_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mlx-gateway\[.*menu"):
        run_menu(Settings(state_dir=tmp_path))


def test_it_is_drawn_anew_at_each_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for rumps: that macOS draws it is not shown."""
    drawn: list[Any] = []

    class Menu(list[Any]):
        pass

    class App:
        def __init__(self, *_: object, **__: object) -> None:
            self.title, self.menu = "", Menu()

        def run(self) -> None:
            for look in looks:
                look(None)
            drawn.append((self.title, [each if isinstance(each, str | None) else each.text for each in self.menu]))

    looks: list[Any] = []
    rumps = SimpleNamespace(
        App=App,
        MenuItem=lambda text, callback: SimpleNamespace(text=text, callback=callback),
        Timer=lambda look, _: SimpleNamespace(start=lambda: looks.append(look)),
        quit_application=None,
    )
    monkeypatch.setattr(menu, "read_overview", lambda _: overview(1))
    menu._draw(rumps, Settings(state_dir=tmp_path))
    title, lines = drawn[0]
    assert title == "mlx 42/s"
    assert lines[:3] == ["1 running, 42 tokens a second", "Open the console", None]
    assert lines[-1] == "Quit"
