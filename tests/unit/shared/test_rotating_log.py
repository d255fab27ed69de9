"""No log grows without limit, and nothing is lost on the way into it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shared.guard import LOG_BYTES, LOGS_KEPT, RotatingLog
from shared.log import last_lines
from shared.processes import GuardedProcess


def test_a_log_that_has_grown_is_set_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    log = RotatingLog(str(tmp_path / "a.log"), most_bytes=100, kept=3)
    for number in range(40):
        log.write(b"%03d %s\n" % (number, b"." * 40))
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert all(path.stat().st_size <= 100 + 45 for path in tmp_path.iterdir())
    lines = [
        line
        for name in ("a.log.3", "a.log.2", "a.log.1", "a.log")
        for line in (tmp_path / name).read_text().splitlines()
    ]
    numbers = [int(line[:3]) for line in lines]
    assert numbers == list(range(numbers[0], 40))


def test_what_a_full_disk_takes_is_counted_and_said_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RotatingLog(str(tmp_path / "no" / "a.log"))
    log.write(b"this is lost\n")
    (tmp_path / "no").mkdir()
    log.write(b"this is not\n")
    log.close()
    said = (tmp_path / "no" / "a.log").read_text()
    assert "13 bytes were lost here" in said
    assert said.endswith("this is not\n")


def test_all_that_a_child_says_is_in_its_log_when_it_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    lines = LOG_BYTES // 100 + 2000
    text = f"import sys\nfor n in range({lines}): print(f'{{n:099d}}')\nsys.stderr.write('the end\\n'); sys.exit(7)"
    child = GuardedProcess([sys.executable, "-I", "-c", text], log=log)
    assert child.wait(30) == 7
    set_aside = log.with_name("child.log.1")
    written = set_aside.read_text().splitlines() + log.read_text().splitlines()
    assert sorted(written) == [*(f"{number:099d}" for number in range(lines)), "the end"]
    assert len(list(log.parent.iterdir())) == 2 <= LOGS_KEPT
    assert last_lines(log, since_byte=10**9).endswith("\n" + written[-1])


def test_a_command_that_cannot_be_run_says_so_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    child = GuardedProcess(["/nowhere/at/all"], log=log)
    assert child.wait(40) == 127
    assert "cannot run /nowhere/at/all" in log.read_text()


def test_a_child_that_leaves_somebody_behind_with_its_output_does_not_keep_the_guard(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    text = "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(5)\nprint('gone')"
    child = GuardedProcess(
        [sys.executable, "-I", "-c", text + "\nimport sys; sys.stdout.flush(); os._exit(0)"], log=log
    )
    assert child.wait(20) == 0
    assert "gone" in log.read_text()
