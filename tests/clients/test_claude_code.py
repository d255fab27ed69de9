"""The real Claude Code does a task on a local model: it runs a tool and reads the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.claude_code import ClaudeCode, install_claude_code
from tests.support.stack import Stack

pytestmark = [pytest.mark.claude, pytest.mark.timeout(420)]


@pytest.fixture(scope="session")
def executable() -> Path:
    return install_claude_code()


@pytest.fixture
def claude_code(executable: Path, stack: Stack, tmp_path: Path) -> ClaudeCode:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    return ClaudeCode(executable=executable, home=home, work=work, url=stack.url, model=stack.demo)


def test_claude_code_runs_a_command_and_reads_its_result(claude_code: ClaudeCode) -> None:
    (claude_code.work / "notes.txt").write_text("seven blue lamps\n")
    session = claude_code.run("run: `cat notes.txt`", "--allowedTools", "Bash")

    (call,) = session.blocks("assistant", "tool_use")
    assert call["name"] == "Bash"
    assert call["input"]["command"] == "cat notes.txt"
    (result,) = session.blocks("user", "tool_result")
    assert result["content"] == "seven blue lamps"
    assert result["tool_use_id"] == call["id"]
    assert session.result["subtype"] == "success"
    assert session.result["result"] == "The tool said: seven blue lamps. All done."
    assert session.result["num_turns"] == 2
    usage = session.result["usage"]
    computed = usage["input_tokens"] + usage["cache_creation_input_tokens"]
    assert usage["cache_read_input_tokens"] > 0.9 * computed, "the second request found the first's prefix"


def test_claude_code_resumes_a_conversation_from_the_cache(claude_code: ClaudeCode) -> None:
    claude_code.run("Hello there")
    resumed = claude_code.run("And hello again", "--continue")
    assert resumed.result["subtype"] == "success"
    assert resumed.result["result"].startswith(("The tool said", "Hello"))
    usage = resumed.result["usage"]
    assert usage["cache_read_input_tokens"] > usage["input_tokens"] + usage["cache_creation_input_tokens"]
