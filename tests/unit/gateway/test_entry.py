"""The command itself, before anything of it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.command.ends import NOT_RUNNING

_INTERRUPTED_IMPORT = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "gateway.command.stack":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from gateway.command.entry import main
sys.exit(main())
"""


def test_control_c_while_it_starts_ends_it_without_a_traceback() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (said.returncode, said.stdout, said.stderr) == (130, "", "")


def run_into_closed_pipe(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, with a reader of its output that has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "import sys; from gateway.command.entry import main; sys.exit(main())", *arguments]
    try:
        return subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writing)


@pytest.mark.parametrize("arguments", [("--help",), ("doctor",)], ids=["buffered", "flushed"])
def test_a_reader_that_has_read_enough_is_no_traceback(arguments: tuple[str, ...], tmp_path: Path) -> None:
    more = ("--state", str(tmp_path), "--port", "0") if arguments == ("doctor",) else ()
    said = run_into_closed_pipe(*arguments, *more)
    assert said.returncode in (0, 141)  # (argparse minds no closed pipe)
    assert said.stderr == ""


@pytest.mark.parametrize("command", ["status", "models", "drain"])
def test_a_command_that_finds_nothing_names_the_folder_and_the_option(command: str, tmp_path: Path) -> None:
    worker = ["any"] if command == "drain" else []
    environment = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
    said = subprocess.run(
        [sys.executable, "-m", "gateway.command.cli", command, "--state", str(tmp_path), *worker],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert said.returncode == NOT_RUNNING
    assert str(tmp_path) in said.stderr
    assert "--state" in said.stderr
