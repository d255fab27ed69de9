"""The item in a Mac's menu bar: what is served, and a stack for as long as the item is there.

It is a process of its own that speaks with the gateway over HTTP alone. What it says is decided by plain functions; the
item itself is drawn by `rumps` (extra `menu`), which exists on macOS only and has not been run here.
"""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.command.elsewhere import RemoteGateway
from gateway.command.ends import failed
from gateway.command.launch import started_stack
from gateway.command.runfile import reachable, read_running
from shared.config import Settings
from shared.errors import ConfigError
from shared.extras import install_line

EVERY_S: Final = 2.0
_STATES: Final[Mapping[str, str]] = {"ready": "●", "loading": "◐", "failed": "▲", "no_memory": "▲"}
_TITLE: Final = "mlx"

Overview = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """`title` stands in the menu bar; each of `models` is (text, the order that a click gives, the model)."""

    title: str
    line: str
    models: tuple[tuple[str, str, str], ...] = ()


def shown(overview: Overview | None) -> Shown:
    """None: no gateway answers."""
    if overview is None:
        return Shown(title=f"{_TITLE} ○", line="nothing answers yet")
    running = len(overview["running"])
    rate = sum(each["decode_tokens_per_s"] for each in overview["workers"])
    busy = f"{running} running, {rate:.0f} tokens a second" if running else "idle"
    title = f"{_TITLE} {rate:.0f}/s" if running else _TITLE
    return Shown(title=title, line=busy, models=tuple(_models(overview)))


def _models(overview: Overview) -> Iterator[tuple[str, str, str]]:
    for host in overview["hosts"]:
        for model in host["models"]:
            done = f" {model['load_done']:.0%}" if model.get("load_done") else ""
            text = f"{_STATES.get(model['state'], '○')} {model['id']} on {host['name']}{done}"
            yield text, "unload" if model["state"] in ("ready", "loading") else "load", model["id"]


def read_overview(settings: Settings) -> Overview | None:
    running = read_running(settings.state_dir)
    if running is None:
        return None
    try:
        found: Overview = RemoteGateway(reachable(running.url), settings.api_key).get("/status")
    except ConfigError:
        return None  # it starts, or is started again
    return found


def give_order(settings: Settings, order: str, model: str) -> str:
    """What was done, or why not, for a person."""
    running = read_running(settings.state_dir)
    try:
        return "" if running is None else RemoteGateway(reachable(running.url), settings.api_key).act(order, model)
    except ConfigError as error:
        return str(error)


def run_menu(settings: Settings) -> int:
    """Until the person quits. Starts `up` where none runs, and then ends it. Raises `ConfigError` without `rumps`."""
    try:
        import rumps
    except ImportError as error:
        raise failed(f"the menu item needs a Mac and the package rumps: {install_line('menu')}") from error
    is_ours = read_running(settings.state_dir) is None
    with started_stack(settings, []) if is_ours else contextlib.nullcontext():
        _draw(rumps, settings)
    return 0


def _draw(rumps: Any, settings: Settings) -> None:
    """Has the main thread until the person quits."""
    app = rumps.App(_TITLE, title=_TITLE, quit_button=None)

    def open_console(_: object) -> None:
        if (running := read_running(settings.state_dir)) is not None:
            webbrowser.open(reachable(running.url))

    drawn: list[Shown] = []

    def look(_: object) -> None:
        found = shown(read_overview(settings))
        if [found] == drawn:  # a menu that is open is not drawn under the pointer
            return
        drawn[:] = [found]
        app.title = found.title
        app.menu.clear()
        app.menu = [
            found.line,
            rumps.MenuItem("Open the console", callback=open_console),
            None,
            *(rumps.MenuItem(text, callback=_ordering(rumps, settings, order, id)) for text, order, id in found.models),
            None,
            rumps.MenuItem("Quit", callback=rumps.quit_application),
        ]

    rumps.Timer(look, EVERY_S).start()
    app.run()


def _ordering(rumps: Any, settings: Settings, order: str, model: str) -> Callable[[object], None]:
    def ordered(_: object) -> None:
        if said := give_order(settings, order, model):
            rumps.notification("mlx-gateway", model, said)

    return ordered
