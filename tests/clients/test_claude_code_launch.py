"""`mlx-gateway launch claude` with the real Claude Code: from nothing to an answer and back to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.claude_code import install_claude_code, isolated
from tests.support.models import DEMO_MODEL
from tests.support.processes import REPOSITORY

pytestmark = [pytest.mark.claude, pytest.mark.slow, pytest.mark.timeout(300)]


def test_launch_brings_everything_up_answers_and_takes_everything_down(tmp_path: Path) -> None:
    home, work, state, programs = (tmp_path / name for name in ("home", "work", "state", "bin"))
    for folder in (home, work, programs):
        folder.mkdir()
    (work / "notes.txt").write_text("seven blue lamps\n")
    (programs / "claude").symlink_to(install_claude_code())
    environment = isolated(home)
    environment |= {"PATH": f"{programs}:{environment['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    launch = ["launch", "claude", "--model", str(DEMO_MODEL), "--state", str(state)]
    arguments = ["-p", "run: `cat notes.txt`", "--allowedTools", "Bash", "--output-format", "json"]
    said = subprocess.run(
        [sys.executable, "-m", "gateway.command.cli", *launch, "--", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
        cwd=work,
    )
    assert said.returncode == 0, said.stderr
    result = json.loads(said.stdout)
    assert result["result"] == "The tool said: seven blue lamps. All done."
    (used,) = result["modelUsage"].values()
    assert used["contextWindow"] == 131_072
    assert used["maxOutputTokens"] == 32_000

    known = json.loads((home / ".claude" / "cache" / "gateway-models.json").read_text())
    assert f"anthropic/{DEMO_MODEL.name}" in json.dumps(known), "its picker has found the served model"
    assert not (state / "up.json").exists(), "the stack has ended"
