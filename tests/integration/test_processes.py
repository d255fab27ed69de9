"""A guarded process ends with its owner, with its guard, and takes what it started along."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from shared.processes import GuardedProcess
from tests.support.processes import is_running, running, wait_until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('child', child.pid, flush=True)\n"
    "time.sleep(600)",
]


def _start(command: list[str], log: Path, *, grace_s: float = 10.0) -> GuardedProcess:
    with log.open("wb") as file:
        process = GuardedProcess(command, output=file, grace_s=grace_s)
    wait_until(lambda: log.read_text(), "the command speaks")
    return process


def test_exit_status_and_output_are_the_commands_own(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        process = GuardedProcess(["sh", "-c", "echo hello; exit 7"], output=file)
    assert process.wait(40) == 7
    assert process.poll() == 7
    assert (tmp_path / "log").read_text() == "hello\n"


def test_a_command_that_does_not_exist_ends_with_127_and_says_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        process = GuardedProcess([str(tmp_path / "absent")], output=file)
    assert process.wait(40) == 127
    assert "cannot run" in (tmp_path / "log").read_text()


def test_terminate_is_polite_and_a_signal_shows_in_the_status(tmp_path: Path) -> None:
    process = _start(SLEEPER, tmp_path / "log")
    assert process.poll() is None
    process.terminate()
    assert process.wait(40) == 128 + signal.SIGTERM


def test_stop_kills_what_ignores_sigterm(tmp_path: Path) -> None:
    process = _start(STUBBORN, tmp_path / "log")
    assert process.stop(grace_s=0.1) == 128 + signal.SIGKILL
    assert not is_running(process.pid)


def test_what_the_command_started_is_swept_up(tmp_path: Path) -> None:
    process = _start(PARENT, tmp_path / "log")
    grandchild = int((tmp_path / "log").read_text().split()[1])
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(40) == 128 + signal.SIGKILL
    wait_until(lambda: not is_running(grandchild), "the grandchild is gone")


@pytest.mark.skipif(sys.platform != "linux", reason="the owner sweeps up instead, when it looks")
def test_the_command_dies_with_a_killed_guard(tmp_path: Path) -> None:
    process = _start(SLEEPER, tmp_path / "log")
    os.kill(process._process.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(process.pid), "the command is gone")
    assert process.wait(40) == 128 + signal.SIGKILL


@pytest.mark.parametrize("command", [SLEEPER, STUBBORN], ids=["polite", "stubborn"])
def test_the_command_and_its_files_go_when_the_owner_is_killed(tmp_path: Path, command: list[str]) -> None:
    leftover, log = tmp_path / "leftover", tmp_path / "command.log"
    leftover.touch()
    owner_source = (
        "import pathlib, time\n"
        "from shared.processes import GuardedProcess\n"
        f"log = open({str(log)!r}, 'wb')\n"
        f"process = GuardedProcess({command!r}, output=log, grace_s=0.2, remove=[pathlib.Path({str(leftover)!r})])\n"
        "print('pid', process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with running("-c", owner_source, log=tmp_path / "owner.log") as owner:
        pid = int(owner.wait_for_line(r"^pid (\d+)$")[1])
        wait_until(lambda: log.read_text(), "the command speaks")
        owner.signal(signal.SIGKILL)
        owner.wait()
        wait_until(lambda: not is_running(pid), "the command is gone")
        wait_until(lambda: not leftover.exists(), "the file is gone")


def test_its_descriptor_becomes_readable_when_it_ends(tmp_path: Path) -> None:
    import select

    process = _start(SLEEPER, tmp_path / "log")
    assert select.select([process], [], [], 0)[0] == []
    process.kill()
    assert select.select([process], [], [], 10)[0] == [process]
    process.wait(40)
