"""The log as text and as JSON lines, on stderr and in a file of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.config import Settings
from shared.log import JsonLines, set_up_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_have_the_figures_as_values() -> None:
    record = logging.LogRecord("gateway.x", logging.INFO, "", 0, "%s ended", ("req_1",), None)
    record.fields = {"request": "req_1", "output_tokens": 7}
    said = json.loads(JsonLines("gateway").format(record))
    assert said["message"] == "req_1 ended"
    assert said["fields"]["output_tokens"] == 7
    assert said["level"] == "info"
    assert said["time"].endswith("Z")


def test_a_traceback_is_part_of_its_line() -> None:
    try:
        raise ValueError("a bug")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    line = JsonLines("p").format(logging.LogRecord("x", logging.ERROR, "", 0, "oh", (), info))
    assert "\n" not in line
    assert "ValueError: a bug" in json.loads(line)["traceback"]


def test_a_process_that_runs_alone_has_its_log_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "gateway.log"
    set_up_logging(Settings(log_file=path, log_format="json"), process="gateway")
    logging.getLogger("gateway.test").info("hello")
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["message"] == "hello"
