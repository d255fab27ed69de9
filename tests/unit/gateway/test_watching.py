"""The live table of `status`: when it is drawn, what it shows of Macs, models and requests, and that it goes on."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from rich.console import Console

from gateway.command.ends import not_running
from gateway.command.watching import Rates, add_status_arguments, tables, wants_table, warnings, watch
from gateway.overview import Running, render_overview
from shared.registry import Fleet, HostRecord, ModelRecord
from tests.support.fleet import lease

GB = 1e9


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def running(**fields: Any) -> Running:
    told: dict[str, Any] = {
        "id": "req_000000000000abcdef012345",
        "model": "qwen",
        "worker": "mac.qwen.1",
        "priority": "interactive",
        "stage": "prefill",
        "prefill_done": 0.4,
        "prompt_tokens": 10_000,
        "output_tokens": 0,
        "age_s": 12.0,
    }
    return Running(**told | fields)


def overview(*requests: Running, figures: Mapping[str, float] | None = None, **worker: Any) -> dict[str, Any]:
    models = (
        ModelRecord(id="qwen", state="ready"),
        ModelRecord(id="big", state="loading", load_done=0.5),
        ModelRecord(id="lost", state="failed", reason="no config.json"),
    )
    host = HostRecord(host="mac", pid=1, models=models, figures=dict(figures or {}))
    fleet = Fleet(workers=(lease("qwen", host="mac", **worker),), hosts=(host,))
    return render_overview(fleet, running=requests)


def drawn(told: Mapping[str, Any], rates: Mapping[str, float] | None = None, *, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*tables(told, rates or {}))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("words", "is_terminal", "wanted"),
    [
        ([], True, True),
        ([], False, False),
        (["--once"], True, False),
        (["--watch"], False, True),
        (["--once"], False, False),
    ],
)
def test_a_terminal_gets_the_table_and_a_pipe_one_look(
    monkeypatch: pytest.MonkeyPatch, words: list[str], is_terminal: bool, wanted: bool
) -> None:
    parser = argparse.ArgumentParser()
    add_status_arguments(parser)
    monkeypatch.setattr(sys, "stdout", Terminal() if is_terminal else io.StringIO())
    assert wants_table(parser.parse_args(words)) is wanted


def test_macs_show_their_memory_its_pressure_swap_heat_and_disk() -> None:
    figures = {
        "memory_total_bytes": 64 * GB,
        "memory_available_bytes": 16 * GB,
        "memory_pressure": 2.0,
        "swap_used_bytes": 3 * GB,
        "thermal_state": 2.0,
        "disk_free_bytes": 500 * GB,
    }
    shown = drawn(overview(figures=figures))
    assert "48.0 GB of 64.0 GB  PRESSURE" in shown
    assert "3.0 GB" in shown
    assert "hot: it is throttled" in shown
    assert "500.0 GB" in shown


def test_a_model_that_loads_shows_how_far_it_is() -> None:
    assert "loading [#####.....] 50%" in drawn(overview())


def test_a_request_shows_its_prefill_in_per_cent_and_its_rate() -> None:
    shown = drawn(overview(running()), {"req_000000000000abcdef012345": 0.0})
    assert "is read" in shown
    assert "[####......]  40%" in shown
    assert "0/s" in shown
    writing = running(stage="decode", prefill_done=1.0, output_tokens=50)
    assert "31/s" in drawn(overview(writing), {"req_000000000000abcdef012345": 31.2})


def test_a_narrow_terminal_cuts_names_and_no_figures() -> None:
    told = running(model="a-model-with-a-long-name", stage="decode", output_tokens=12_345, age_s=1234.0)
    shown = drawn(overview(told), {"req_000000000000abcdef012345": 123.0}, width=80)
    assert all(text in shown for text in ("is written", "10000", "[####......]  40%", "12345", "123/s", "1234 s"))


def test_nothing_that_runs_is_said_in_words() -> None:
    assert "no requests are running" in drawn(overview())


def test_the_rate_of_a_request_that_says_nothing_falls_to_nothing() -> None:
    times: Iterator[float] = iter([0.0, 1.0, 2.0, 3.0])
    rates = Rates(lambda: next(times))
    told = [overview(running(output_tokens=tokens)) for tokens in (10, 40, 40)]
    assert [dict(rates.look(each)) for each in told] == [
        {},
        {"req_000000000000abcdef012345": 30.0},
        {"req_000000000000abcdef012345": 0.0},
    ]
    assert rates.look(overview()) == {}


def test_what_a_person_should_do_something_about_is_below_the_table() -> None:
    assert list(warnings(overview())) == ["lost on mac is failed: no config.json"]
    assert list(warnings(overview(*[running()] * 35)))[-1] == "5 more requests are running"


def looks(count: int) -> Callable[[float], None]:
    """Interrupts at the last of so many."""
    left = iter(range(count))

    def wait(_: float) -> None:
        if next(left) == count - 1:
            raise KeyboardInterrupt

    return wait


def test_a_gateway_that_does_not_answer_is_waited_for() -> None:
    answers: Iterator[Any] = iter([not_running("http://x: no gateway answers"), overview(), overview()])

    def read() -> Mapping[str, Any]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        watch(read, "http://x", out, wait=looks(2))
    assert "no requests are running" in out.getvalue()


def test_a_table_is_drawn_over_itself_only_on_a_terminal() -> None:
    for out, is_drawn_over in ((io.StringIO(), False), (Terminal(), True)):
        with pytest.raises(KeyboardInterrupt):
            watch(overview, "http://x", out, wait=looks(2))
        assert ("\x1b[H" in out.getvalue()) is is_drawn_over
