"""`mlx-gateway upgrade` for real: two releases as wheels, an environment of its own, and a stack that runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from gateway.command.runfile import read_running
from tests.support.processes import running, wait_until
from tests.support.up import NO_SETTINGS, READY_S, Up, message
from tests.support.wheels import make_environment, make_wheel

pytestmark = pytest.mark.slow

OLD, NEW = "0.2.0", "9.0.0"
# No index is asked, whatever this machine is set up for.
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": None, "PYTHONPATH": None}


def test_a_release_is_installed_and_what_runs_is_replaced_part_by_part(tmp_path: Path) -> None:
    releases, state = tmp_path / "releases", tmp_path / "state"
    old = make_wheel(tmp_path / "old", OLD)
    python = make_environment(tmp_path / "env")
    environment = {name: value for name, value in {**os.environ, **NO_SETTINGS, **NO_INDEX}.items() if value}

    def ours(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name("mlx-gateway")), *words]
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=False, cwd=tmp_path)

    pip = [str(python), "-m", "pip", "install", "--quiet", str(old)]
    subprocess.run(pip, check=True, env=environment, cwd=tmp_path)
    upgrade = ("upgrade", "--find-links", str(releases), "--state", str(state))
    releases.mkdir()
    assert f"{OLD} is the newest release (installed with pip)" in ours(*upgrade).stdout
    make_wheel(releases, NEW)

    (tmp_path / "t").mkdir()
    words = ("-P", "-m", "gateway.command.cli", "up", "--port", "0", "--state", str(state), "--engine", "echo")
    with running(
        *words, log=tmp_path / "up.log", env={**NO_SETTINGS, **NO_INDEX}, python=str(python), cwd=tmp_path
    ) as process:
        stack = Up(process=process, state=state, temporary=tmp_path / "t")
        process.wait_for_line(r"^ready on (http://\S+)$", deadline_s=READY_S)
        before = read_running(state)
        assert before is not None
        workers = _workers(stack)

        looked = ours(*upgrade, "--check")
        assert f"{OLD} is installed, with pip; {NEW} would be" in looked.stdout
        assert "would drain its host, then its gateway" in looked.stdout
        assert _release(stack) == OLD

        stuck = stack.open("POST", "/v1/messages", message("echo:words 2000", max_tokens=3000))
        done = ours(*upgrade)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{NEW} is installed (it was {OLD})" in done.stdout
        answer = stuck.getresponse()
        assert answer.status == 200  # it was begun on the release before, and has ended there
        assert answer.read().count(b"word") >= 1000
        stuck.close()

        after = read_running(state)
        assert after is not None
        assert (after.pid, after.url, after.parts_release) == (before.pid, before.url, NEW)
        assert _release(stack) == NEW
        wait_until(lambda: _workers(stack) and not _workers(stack) & workers, "the worker is another one")
        assert stack.say("hello there")[0] == 200
        assert "has not" not in done.stderr
        assert ours("stop", "--state", str(state)).returncode == 0
        assert process.wait() == 0


def _workers(stack: Up) -> set[str]:
    return {each["name"] for each in stack.request("GET", "/status")[1]["workers"] if each["state"] == "ready"}


def _release(stack: Up) -> str:
    found = re.search(r'gw_build_info\{version="([^"]+)"\}', str(stack.request("GET", "/metrics")[1]))
    assert found is not None
    return found[1]
