"""The live table of `mlx-gateway status`: Macs, models, memory, and what runs, drawn over itself once a second."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TextIO

from shared.disk import subject_and_effect
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

Overview = Mapping[str, Any]  # see `gateway.overview`

_EVERY_S: Final = 1.0
_BAR: Final = 10
_GB: Final = 1e9
_MOST_REQUESTS: Final = 30
_HEAT: Final[Mapping[float, str]] = {1.0: "warm", 2.0: "hot: it is throttled", 3.0: "too hot: it is throttled"}
_NAMES: Final = frozenset({"request", "model", "on", "class"})  # which a narrow terminal cuts before figures
_STAGES: Final[Mapping[str, str]] = {"queued": "waits", "prefill": "is read", "decode": "is written"}


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="once, as lines, as where nobody sees a terminal")
    parser.add_argument("--watch", action="store_true", help="as a table that follows what happens, also into a pipe")
    parser.add_argument("--json", action="store_true", dest="is_json", help="once, as JSON")


def wants_table(options: argparse.Namespace) -> bool:
    """Whether it is drawn anew every second, instead of told once."""
    return bool(options.watch or (sys.stdout.isatty() and not options.once))


class Rates:
    """Tokens a second of each request, from one look to the next: of who says nothing, 0."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def look(self, overview: Overview) -> Mapping[str, float]:
        """By id, of those that were there the last time too."""
        now_s = self._clock()
        seen = {str(each["id"]): (now_s, int(each["output_tokens"])) for each in overview["running"]}
        self._rates = {
            id_: max(0, tokens - self._seen[id_][1]) / (now_s - self._seen[id_][0])
            for id_, (_, tokens) in seen.items()
            if id_ in self._seen and now_s > self._seen[id_][0]
        }
        self._seen = seen
        return self._rates


def watch(
    read: Callable[[], Overview], url: str, out: TextIO | None = None, wait: Callable[[float], None] = time.sleep
) -> None:
    """Until interrupted. Where nobody sees a terminal, each table follows the last. A gateway that does not answer is
    waited for."""
    from rich.console import Console, Group  # here: it is as large as all that commands import otherwise
    from rich.live import Live
    from rich.text import Text

    console, rates = Console(file=out or sys.stdout), Rates()

    def drawn() -> Group:
        try:
            overview = read()
        except ConfigError as error:
            return Group(Text(str(error), style="red"))
        told = [Text(line, style="red") for line in warnings(overview)]
        return Group(Text(f"{url}  {time.strftime('%H:%M:%S')}"), *tables(overview, rates.look(overview)), *told)

    with Live(drawn(), console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            wait(_EVERY_S)
            live.update(drawn(), refresh=True)
            if not console.is_terminal:
                console.print(live.renderable)


def tables(overview: Overview, rates: Mapping[str, float]) -> Iterator[Table]:
    """What is there of Macs, models and requests."""
    yield _table(("Mac", "memory", "swap", "heat", "disk free"), map(_mac, overview["hosts"]))
    models = chain.from_iterable(_models(host, overview["workers"]) for host in overview["hosts"])
    yield _table(("model", "on", "state", "requests", "out", "in", "to read", "memory", "cache"), models)
    shown = overview["running"][:_MOST_REQUESTS]
    yield _table(
        ("request", "model", "on", "class", "", "prompt", "read", "out", "rate", "since"),
        (_request(each, rates.get(str(each["id"]))) for each in shown),
        nothing="no requests are running",
    )


def warnings(overview: Overview) -> Iterator[str]:
    """What a person should do something about."""
    for host in overview["hosts"]:
        for model in host["models"]:
            if model.get("reason"):
                yield f"{model['id']} on {host['name']} is {model['state']}: {model['reason']}"
    for each in overview["strangers"]:
        yield f"{each['kind']} {each['name']} gets no work: {each['reason']}"
    for each in overview["faults"]:
        subject, effect = subject_and_effect(each["fault"])
        yield f"{subject}: {each['fault']}; {effect}"
    hidden = len(overview["running"]) - _MOST_REQUESTS
    if hidden > 0:
        yield f"{hidden} more requests are running"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]], nothing: str = "none") -> Table:
    from rich.table import Table
    from rich.text import Text

    lines = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head if lines else head[:1]:
        table.add_column(name, overflow="ellipsis", no_wrap=not lines or name not in _NAMES, min_width=2)
    for line in lines or [(nothing,)]:
        table.add_row(*(Text(cell) for cell in line))
    return table


def _mac(host: Mapping[str, Any]) -> tuple[str, ...]:
    told: Mapping[str, float] = host.get("figures", {})
    total, free = told.get("memory_total_bytes"), told.get("memory_available_bytes")
    memory = (
        "" if total is None or free is None else f"{bar((total - free) / total)} {_gb(total - free)} of {_gb(total)}"
    )
    pressure = "  PRESSURE" if told.get("memory_pressure", 1.0) > 1 else ""
    leaving = " (leaves)" if host.get("draining") else ""
    swap, disk = told.get("swap_used_bytes"), told.get("disk_free_bytes")
    heat = _HEAT.get(told.get("thermal_state", 0.0), "")
    return (host["name"] + leaving, memory + pressure, _gb(swap) if swap else "", heat, _gb(disk) if disk else "")


def _models(host: Mapping[str, Any], workers: list[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for model in host["models"]:
        mine = [each for each in workers if (each.get("host"), each["model"]) == (host["name"], model["id"])]
        done = model.get("load_done", 0.0) if model["state"] == "loading" else None
        state = model["state"] if done is None else f"loading {bar(done)} {done:.0%}"
        if not mine:
            yield (model["id"], host["name"], state)
        for worker in mine:
            shown = state if done is not None else worker["state"]
            yield (model["id"], host["name"], shown, *_worker(worker))


def _worker(worker: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{worker['in_flight']}/{worker['capacity']}",
        f"{worker['decode_tokens_per_s']:.0f}/s",
        f"{worker['prefill_tokens_per_s']:.0f}/s",
        str(worker["waiting_tokens"]),
        _gb(worker["memory_bytes"]),
        _gb(worker["cache_bytes"]),
    )


def _request(told: Mapping[str, Any], rate: float | None) -> tuple[str, ...]:
    done = told.get("prefill_done")
    return (
        str(told["id"])[-12:],
        told["model"],
        str(told["worker"]).partition(".")[0],
        told["class"],
        _STAGES.get(told["stage"], told["stage"]),
        str(told["prompt_tokens"] or ""),
        "" if done is None else f"{bar(done)} {done:4.0%}",
        str(told["output_tokens"]),
        f"{rate or 0:.0f}/s",
        f"{told['age_s']:.0f} s",
    )


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / _GB:.1f} GB"


def bar(share: float) -> str:
    done = round(_BAR * min(1.0, max(0.0, share)))
    return f"[{'#' * done}{'.' * (_BAR - done)}]"
