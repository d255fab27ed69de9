"""One fleet for all faults of a process, and the table of what became of their cases in all processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.cases import Case, Wave, reference, waves
from tests.faults.client import Answer
from tests.faults.fleet import Fleet, fleet
from tests.faults.report import notes, table
from tests.faults.trial import Verdict

VERDICTS: list[Verdict] = []


@pytest.fixture(scope="session")
def whole_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("faults") / "fleet") as found:
        yield found


@pytest.fixture(scope="session")
def all_waves() -> list[Wave]:
    return waves()


@pytest.fixture(scope="session")
def expected(whole_fleet: Fleet, all_waves: list[Wave]) -> dict[Case, Answer]:
    """What is answered when nothing goes wrong."""
    return {case: reference(whole_fleet, case) for wave in all_waves for case in wave.cases}


@pytest.fixture(scope="session")
def verdicts() -> list[Verdict]:
    return VERDICTS


def pytest_sessionfinish(session: pytest.Session) -> None:
    """From a process of xdist to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["verdicts"] = pickle.dumps(VERDICTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    VERDICTS.extend(pickle.loads(getattr(node, "workeroutput", {}).get("verdicts", pickle.dumps([]))))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if VERDICTS:
        terminalreporter.write_sep("-", "faults")
        terminalreporter.write_line(table(VERDICTS))
        terminalreporter.write_line(notes(VERDICTS))
