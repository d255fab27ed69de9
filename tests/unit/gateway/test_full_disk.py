"""A disk that takes nothing more is named, and nothing half written is left. (The kernel refuses the bytes here because
of a limit on files, which is the nearest to a full disk that needs no rights.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from dataclasses import replace
from shared.config import load_settings
from shared.errors import ConfigError
state = Path(sys.argv[1])
"""
_WRITE = """
from gateway.command.runfile import Running, write_running
try:
    write_running(state, Running(pid=1, url="http://127.0.0.1:1", redis_url=""))
except ConfigError as error:
    print(error)
"""
_EXAMINE = """
from gateway.command.doctor import _state
finding = _state(replace(load_settings(environ={}), state_dir=state))
print(finding.is_fine, finding.text)
"""


def said(program: str, state: Path) -> str:
    command = [sys.executable, "-c", _LIMITED + program, str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_up_names_a_state_folder_that_takes_nothing(tmp_path: Path) -> None:
    assert f"the state folder {tmp_path} cannot be written: " in said(_WRITE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_doctor_finds_it_out_by_writing(tmp_path: Path) -> None:
    told = said(_EXAMINE, tmp_path)
    assert told.startswith("False nothing can be kept in")
    assert list(tmp_path.iterdir()) == []


_WATCH = """
from shared.disk import subject_and_effect, write_trouble
from gateway.disk_watch import DiskWatch
import asyncio
watch = DiskWatch(state)
asyncio.run(watch.look())
print(subject_and_effect(watch.trouble)[0], watch.trouble)
"""


def test_a_gateway_that_serves_finds_it_out_and_says_so(tmp_path: Path) -> None:
    assert said(_WATCH, tmp_path).startswith(f"disk nothing can be written to {tmp_path}: ")
