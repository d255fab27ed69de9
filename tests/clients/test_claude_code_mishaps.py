"""What happens to people beside the plain task, with the real Claude Code: they stop it, run it twice, restart the
server below it, paste a picture, read a PDF, connect a tool server, let it think, let it decide by itself.

The demo model is what prompts are counted on; the echo engine calls the tools that the demo model cannot, and as "slow"
says what it says slowly enough to be interrupted. (`-s` shows the tables.)
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.claude_code import ClaudeCode, Session, install_claude_code
from tests.support.appended import check_appended
from tests.support.models import DEMO_MODEL
from tests.support.processes import wait_until
from tests.support.recorder import Exchange, Recorder, describe
from tests.support.up import Up, up
from tests.unit.worker.test_documents import pdf

pytestmark = [pytest.mark.claude, pytest.mark.slow, pytest.mark.timeout(600)]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
READ = "run: `cat notes.txt`"
TOLD = "The tool said: seven blue lamps. All done."
BASH = ("--allowedTools", "Bash")
AGAIN = ("--continue", *BASH)
SERVER = Path(__file__).with_name("lamps_server.py")


@dataclass(frozen=True)
class Desk:
    """A stack, what passed between it and its clients, and a folder for them."""

    up: Up
    recorder: Recorder
    folder: Path

    def claude(self, name: str = "user", model: str = "demo") -> ClaudeCode:
        home, work = self.folder / name / "home", self.folder / name / "work"
        home.mkdir(parents=True)
        work.mkdir()
        (work / "notes.txt").write_text("seven blue lamps\n")
        return ClaudeCode(executable=install_claude_code(), home=home, work=work, url=self.recorder.url, model=model)

    def kill(self, part: str) -> None:
        """A part of the stack, by the module that it runs."""
        found = [pid for pid in self.up.processes() if _runs(pid, part)]
        assert found, f"nothing runs {part}"
        for pid in found:
            with suppress(ProcessLookupError):  # a worker ends by itself with its host
                os.kill(pid, signal.SIGKILL)


def _runs(pid: int, words: str) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    try:
        return words in command.read_bytes().decode(errors="replace").replace("\0", " ")
    except FileNotFoundError:
        return False


@contextmanager
def stack(folder: Path) -> Iterator[tuple[Up, Recorder]]:
    models = [
        {"id": "demo", "source": str(DEMO_MODEL)},
        {"id": "echo", "source": "echo", "engine": "echo"},
        {"id": "slow", "source": "slow", "engine": "echo", "options": {"step_ms": 15}},
    ]
    config = folder / "config"
    config.mkdir()
    (config / "models.json").write_text(json.dumps({"models": models}))
    with up(folder, "--engine", "mlx", "--config", str(config)) as running:
        url = running.wait_until_ready()
        for model in models:
            running.process.wait_for_line(rf"^{model['id']} is ready$", deadline_s=60)
        with Recorder(url) as recorder:
            yield running, recorder


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Recorder]]:
    with stack(tmp_path_factory.mktemp("mishaps")) as both:
        yield both


@pytest.fixture
def desk(shared_stack: tuple[Up, Recorder], tmp_path: Path) -> Desk:
    return Desk(*shared_stack, tmp_path)


@pytest.fixture
def own_desk(tmp_path: Path) -> Iterator[Desk]:
    """With a stack that the test may break."""
    (tmp_path / "own").mkdir()
    with stack(tmp_path / "own") as both:
        yield Desk(*both, tmp_path)


def show(title: str, exchanges: Sequence[Exchange], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{title}\n{describe(exchanges)}")


def deltas(exchange: Exchange) -> int:
    return sum(name == "content_block_delta" for name, _ in exchange.events)


def wait_for_words(recorder: Recorder, since: int, count: int = 30) -> None:
    """Until an answer to a request after the first `since` is well under way."""
    wait_until(
        lambda: any(deltas(exchange) >= count for exchange in recorder.messages()[since:]),
        "an answer is under way",
        deadline_s=60,
    )


def slow_runs(desk: Desk) -> float:
    """Requests that run on the slow model, as its worker last said."""
    _, text = desk.up.request("GET", "/metrics/hosts")
    lines = [line for line in text.splitlines() if line.startswith("wk_running{") and 'model="slow"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_an_answer_stopped_with_control_c_ends_there_and_the_conversation_goes_on(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    claude = desk.claude(model="slow")
    with desk.recorder.recorded() as exchanges, claude.interactive(*BASH) as terminal:
        terminal.wait_for("/effort")
        before = len(desk.recorder.messages())
        terminal.enter("Tell me of the lamps, all of them")
        wait_for_words(desk.recorder, before)
        terminal.press("\x03")
        wait_until(lambda: slow_runs(desk) == 0, "the work has ended", deadline_s=30)
        terminal.enter("Only this then, seven")
        wait_until(lambda: len(answered(desk.recorder, before)) == 1, "the next answer", deadline_s=60)
    show("stopped with Ctrl-C, and asked again", exchanges, capsys)

    stopped, again = desk.recorder.messages()[before:]
    assert stopped.was_left
    assert deltas(stopped) < 1000, "it was far from its end"
    assert "Only this then, seven" in said(again)


def answered(recorder: Recorder, since: int) -> list[Exchange]:
    return [exchange for exchange in recorder.messages()[since:] if exchange.stop_reason == "end_turn"]


def has_tools(exchange: Exchange) -> bool:
    """Whether it is a turn of the conversation, not one of the client's own small questions (a title)."""
    return len(exchange.body.get("tools", ())) > 1


def said(exchange: Exchange) -> str:
    texts = [data["delta"].get("text", "") for name, data in exchange.events if name == "content_block_delta"]
    return "".join(texts)


def test_served_models_are_in_the_picker_and_can_be_picked(desk: Desk) -> None:
    discovery = {"CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": ""}
    with desk.recorder.recorded() as exchanges, desk.claude().interactive(**discovery) as terminal:
        terminal.wait_for("/effort")
        wait_until(lambda: any("/v1/models" in each.path for each in desk.recorder.exchanges), "models are listed")
        terminal.enter("/model")
        for model in ("demo", "echo", "slow"):
            terminal.wait_for(f"{model} From")  # the rest may be on the screen already
        row = re.search(r"(\d)\.echoFrom", terminal.shown)
        assert row
        before = len(desk.recorder.messages())
        terminal.press(row[1])
        terminal.wait_for("Set model to")
        terminal.enter("Hello there")
        wait_until(lambda: any(map(has_tools, answered(desk.recorder, before))), "an answer", deadline_s=60)
    asked = [exchange for exchange in exchanges if exchange.is_message and has_tools(exchange)]
    assert {exchange.body["model"] for exchange in asked} == {"anthropic/echo"}


def test_two_sessions_at_once_each_compute_only_what_they_append(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [desk.claude(name) for name in ("first", "second")]

    def work(claude: ClaudeCode) -> Session:
        return claude.converse(READ, f"{READ} twice", arguments=BASH)

    with desk.recorder.recorded() as exchanges, ThreadPoolExecutor(2) as pool:
        sessions = list(pool.map(work, both))
    show("two sessions at once", exchanges, capsys)

    assert [session.result["result"] for session in sessions] == [TOLD, TOLD]
    ids = {exchange.headers["x-claude-code-session-id"] for exchange in exchanges}
    assert len(ids) == 2
    for session in ids:
        check_appended([each for each in exchanges if each.headers["x-claude-code-session-id"] == session])


@pytest.mark.parametrize("part", ["-m gateway ", "-m worker ", "-m worker"], ids=["gateway", "worker", "Mac"])
def test_a_server_that_dies_in_the_middle_of_an_answer_is_waited_for(
    own_desk: Desk, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    claude = own_desk.claude(model="slow")
    killer = threading.Thread(target=lambda: (wait_for_words(own_desk.recorder, 0), own_desk.kill(part)), daemon=True)
    killer.start()
    with own_desk.recorder.recorded() as exchanges:
        session = claude.run("echo:words 300")
    killer.join()
    show(f"{part} killed in the middle of an answer", exchanges, capsys)

    assert session.result["subtype"] == "success"
    assert not session.result["is_error"]
    *cut, last = exchanges
    assert all(exchange.stop_reason == "" for exchange in cut)
    assert last.stop_reason == "end_turn"
    if part == "-m gateway ":
        assert cut
    elif part == "-m worker ":  # its host starts another, which goes on, and the client notices nothing
        assert not cut


def test_thinking_by_budget_is_kept_from_turn_to_turn(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    claude = desk.claude()
    with desk.recorder.recorded() as exchanges:
        first = claude.run(READ, *BASH, MAX_THINKING_TOKENS="2000")
        again = claude.run(READ, *AGAIN, MAX_THINKING_TOKENS="2000")
    show("thinking with a budget", exchanges, capsys)

    assert all(exchange.body["thinking"] != {"type": "disabled"} for exchange in exchanges)
    assert (first.result["result"], again.result["result"]) == (TOLD, TOLD)
    check_appended(exchanges)


def test_a_picture_in_the_prompt_of_a_model_without_eyes_leaves_the_words(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    with desk.recorder.recorded() as exchanges:
        session = desk.claude().converse([picture, {"type": "text", "text": READ}], READ, arguments=BASH)
    show("a picture in the prompt", exchanges, capsys)

    refused = [exchange for exchange in exchanges if exchange.status == 400]
    assert refused
    assert all("Could not process image" in exchange.error for exchange in refused)
    assert session.result["result"] == TOLD


def test_a_pdf_that_holds_text_is_read_and_computed_once(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    claude = desk.claude()
    (claude.work / "lamps.pdf").write_bytes(pdf("seven blue lamps", "and a red one"))
    allowed = ("--model", "echo", "--allowedTools", "Read")
    claude.run(f"call Read {json.dumps({'file_path': str(claude.work / 'lamps.pdf')})}", *allowed)
    with desk.recorder.recorded() as exchanges:
        told = claude.run(READ, *AGAIN)
    show("a PDF in the conversation", exchanges, capsys)

    assert '"type": "document"' in json.dumps(exchanges[0].body)
    assert [exchange.status for exchange in exchanges] == [200, 200]
    assert told.result["result"] == TOLD
    check_appended(exchanges)


def test_tools_of_a_server_are_found_called_and_leave_the_prompt_as_it_was(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server of the Model Context Protocol, whose tools the client keeps out of the prompt until they are found."""
    claude = desk.claude()
    servers = claude.work / "servers.json"
    command = {"type": "stdio", "command": sys.executable, "args": [str(SERVER)]}
    servers.write_text(json.dumps({"mcpServers": {"lamps": command}}))
    with_server = ("--mcp-config", str(servers), "--allowedTools", "Bash,ToolSearch,mcp__lamps__count")
    echo = ("--continue", "--model", "echo", *with_server)
    with desk.recorder.recorded() as before:
        claude.run(READ, *with_server)
    claude.run('call ToolSearch {"query": "select:mcp__lamps__count", "max_results": 5}', *echo)
    called = claude.run('call mcp__lamps__count {"colour": "blue"}', *echo)
    with desk.recorder.recorded() as after:
        claude.run(READ, "--continue", *with_server)
    show("a tool of a server", [*before, *after], capsys)

    (result,) = called.blocks("user", "tool_result")
    assert "seven blue lamps" in json.dumps(result)
    assert "mcp__lamps__count" not in [tool["name"] for tool in before[0].body["tools"]]
    assert after[0].cached_tokens >= before[-1].prompt_tokens
    check_appended(after)


def test_auto_mode_runs_what_is_harmless_and_denies_what_nobody_can_judge(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """It asks the vendor's servers to judge calls. Ours say at once that they do not, without a request in vain."""
    claude = desk.claude(model="echo")
    auto = ("--permission-mode", "auto")
    call = {"description": "look"}
    with desk.recorder.recorded() as exchanges:
        harmless = claude.run(f"call Bash {json.dumps(call | {'command': 'cat notes.txt'})}", *auto)
        unjudged = claude.run(f"call Bash {json.dumps(call | {'command': 'curl -s http://127.0.0.1:9/x | sh'})}", *auto)
    show("auto mode", exchanges, capsys)

    assert all("safeguards" in exchange.body for exchange in exchanges)
    assert [exchange.status for exchange in exchanges] == [200] * 4
    (ran,) = harmless.blocks("user", "tool_result")
    (denied,) = unjudged.blocks("user", "tool_result")
    assert ran["content"] == "seven blue lamps"
    assert denied["is_error"]
    assert "safety check does not run" in denied["content"]
