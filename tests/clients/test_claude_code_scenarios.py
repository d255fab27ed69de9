"""What the real Claude Code does in a day, and how little of it is computed. (`-s` shows the tables.)

Two models answer: the demo model, for prompts, caches and token counts as they really are, and the echo engine where
the demo model cannot be brought to call a tool (it copies short names and one argument only). What Claude Code said to
the echo engine is said again to the demo model, so that those prompts are counted, too.

Computed tokens are compared exactly (`tests.support.appended`): a next turn computes what the client appended.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path

import pytest

from tests.clients.claude_code import ClaudeCode, install_claude_code
from tests.support.appended import check_appended
from tests.support.models import DEMO_MODEL
from tests.support.recorder import Exchange, Recorder, describe
from tests.support.up import up
from tests.unit.worker.test_documents import pdf

pytestmark = [pytest.mark.claude, pytest.mark.slow, pytest.mark.timeout(600)]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
READ = "run: `cat notes.txt`"
TOLD = "The tool said: seven blue lamps. All done."
BASH = ("--allowedTools", "Bash")
AGAIN = ("--continue", *BASH)
ECHO = ("--model", "echo", "--allowedTools", "Bash,Read,Agent,CronList,ToolSearch")


@contextmanager
def recorded_stack(folder: Path, **environment: str) -> Iterator[Recorder]:
    """A recorder in front of a stack with the demo model and the echo engine."""
    models = [{"id": "demo", "source": str(DEMO_MODEL)}, {"id": "echo", "source": "echo", "engine": "echo"}]
    config = folder / "config"
    config.mkdir()
    (config / "models.json").write_text(json.dumps({"models": models}))
    with up(folder, "--engine", "mlx", "--config", str(config), env=environment) as running:
        url = running.wait_until_ready()
        running.process.wait_for_line(r"^demo is ready$", deadline_s=60)
        with Recorder(url) as recorder:
            yield recorder


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    with recorded_stack(tmp_path_factory.mktemp("claude-code")) as recorder:
        yield recorder


def start_claude(recorder: Recorder, folder: Path) -> ClaudeCode:
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (work / "notes.txt").write_text("seven blue lamps\n")
    return ClaudeCode(executable=install_claude_code(), home=home, work=work, url=recorder.url, model="demo")


@pytest.fixture
def claude(recorder: Recorder, tmp_path: Path) -> ClaudeCode:
    return start_claude(recorder, tmp_path)


def show(title: str, exchanges: Sequence[Exchange], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{title}\n{describe(exchanges)}")


def test_a_task_and_its_continuation_compute_only_what_they_append(
    recorder: Recorder, claude: ClaudeCode, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder.recorded() as exchanges:
        task = claude.converse(f"{READ} twice", READ, arguments=BASH)
        continued = claude.run(READ, *AGAIN)
    show("three calls in two turns, and one after --continue", exchanges, capsys)

    assert [block["input"]["command"] for block in task.blocks("assistant", "tool_use")] == ["cat notes.txt"] * 3
    assert (task.result["result"], continued.result["result"]) == (TOLD, TOLD)
    assert [exchange.called for exchange in exchanges] == [["Bash", "Bash"], [], ["Bash"], [], ["Bash"], []]
    assert all(exchange.computed_tokens < 100 for exchange in exchanges[1:])
    check_appended(exchanges)


def test_tools_found_by_search_are_called_and_leave_the_prompt_as_it_was(
    recorder: Recorder, claude: ClaudeCode, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search itself is the echo engine's doing; what it does to prompts is measured on the demo model."""
    with recorder.recorded() as before:
        claude.run(READ, *BASH)
    with recorder.recorded() as searching:
        claude.run('call ToolSearch {"query": "select:CronList", "max_results": 5}', "--continue", *ECHO)
        called = claude.run("call CronList {}", "--continue", *ECHO)
    with recorder.recorded() as after:
        claude.run(READ, *AGAIN)
    show("a tool search, and the found tool called", [*before, *searching, *after], capsys)

    assert [exchange.called for exchange in searching] == [["ToolSearch"], [], ["CronList"], []]
    (result,) = called.blocks("user", "tool_result")
    assert not result.get("is_error")
    names = [[tool["name"] for tool in exchange.body["tools"]] for exchange in (*before, *searching, *after)]
    assert "CronList" not in names[0]
    assert "CronList" in names[-1], "the client put the found tool among the others"
    assert after[0].cached_tokens >= before[-1].prompt_tokens, "which moved nothing that stands before the search"
    check_appended(after)


def test_compaction_reads_the_cached_conversation(
    recorder: Recorder, claude: ClaudeCode, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder.recorded() as before:
        claude.run(READ, *BASH)
    with recorder.recorded() as compacting:
        claude.run("/compact", *AGAIN)
    with recorder.recorded() as after:
        continued = claude.run(READ, *AGAIN)
    show("/compact", [*before, *compacting, *after], capsys)

    assert all(exchange.cached_tokens >= before[0].prompt_tokens for exchange in compacting)
    assert continued.result["result"] == TOLD
    assert after[0].cached_tokens > before[0].prompt_tokens // 2, "system and tools are what they were"
    check_appended(after)


def test_subagents_work_beside_the_main_conversation_and_share_their_head(
    recorder: Recorder, claude: ClaudeCode, capsys: pytest.CaptureFixture[str]
) -> None:
    """The echo engine delegates to two at once; what was said to it is then said to the demo model."""
    commands = ("cat notes.txt", "cat notes.txt | cat")
    tasks = [
        {"description": "look", "subagent_type": "Explore", "prompt": f"call Bash {json.dumps({'command': command})}"}
        for command in commands
    ]
    with recorder.recorded() as exchanges:
        session = claude.run("\n".join(f"call Agent {json.dumps(task)}" for task in tasks), *ECHO)
    main = [exchange for exchange in exchanges if not exchange.agent]
    agents = {exchange.agent: [each for each in exchanges if each.agent == exchange.agent] for exchange in exchanges}
    del agents[""]
    assert main[0].called == ["Agent", "Agent"]
    assert [[exchange.called for exchange in agent] for agent in agents.values()] == [[["Bash"], []]] * 2
    assert "seven blue lamps" in session.result["result"]

    counted = [[recorder.say_again(each, model="demo", max_tokens=1) for each in agent] for agent in agents.values()]
    said = [recorder.say_again(each, model="demo", max_tokens=1) for each in main]
    show("two subagents, as it was", exchanges, capsys)
    show("and said again to the demo model", [*chain(*counted), *said], capsys)
    for conversation in (*counted, said):
        for earlier, later in pairwise(conversation):
            assert later.computed_tokens == later.prompt_tokens - earlier.prompt_tokens
    first, second = counted
    assert second[0].cached_tokens > first[0].prompt_tokens // 2, "system and tools are the same for both"


def test_a_prompt_that_is_too_long_is_compacted_and_answered(
    recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client takes the window to be far larger than it is, and learns of it from the refusal."""
    (tmp_path / "first").mkdir()
    with recorder.recorded() as exchanges:
        start_claude(recorder, tmp_path / "first").run("Hello there", *BASH)
    window_tokens = exchanges[0].prompt_tokens + 6000
    line = "This is a plain line of words to read.\n"  # 14 tokens
    with recorded_stack(tmp_path, MLX_GATEWAY_MAX_CONTEXT_TOKENS=str(window_tokens)) as small:
        claude = start_claude(small, tmp_path)
        with small.recorded() as exchanges:
            claude.run(line * 200 + READ, *BASH, CLAUDE_CODE_MAX_CONTEXT_TOKENS="200000")
            recovered = claude.run(line * 250 + READ, *AGAIN, CLAUDE_CODE_MAX_CONTEXT_TOKENS="200000")
    show(f"too long for {window_tokens} tokens", exchanges, capsys)

    refused = [exchange for exchange in exchanges if exchange.status == 400]
    assert len(refused) == 1
    assert refused[0].error.startswith("prompt is too long: ")
    assert refused[0].error.endswith(f" > {window_tokens} maximum")
    assert recovered.result["result"] == TOLD
    assert all(exchange.prompt_tokens < window_tokens for exchange in exchanges)


def test_a_second_session_finds_system_and_tools_in_the_cache(
    recorder: Recorder, claude: ClaudeCode, capsys: pytest.CaptureFixture[str]
) -> None:
    """Although the client's first system block names another version suffix in each session."""
    with recorder.recorded() as exchanges:
        claude.run(READ, *BASH)
        claude.run(f"Hello there. Now {READ}", *BASH)
    show("two sessions in one folder", exchanges, capsys)

    first, _, second, _ = exchanges
    billing = {exchange.body["system"][0]["text"] for exchange in (first, second)}
    assert len(billing) == 2
    assert all(text.startswith("x-anthropic-billing-header:") for text in billing)
    assert second.cached_tokens > first.prompt_tokens // 2


@pytest.mark.parametrize(
    ("name", "data", "refusal"),
    [
        ("pixel.png", base64.b64decode(PIXEL), "Could not process image"),
        ("scan.pdf", pdf(""), "does not support PDF input"),
    ],
    ids=["image", "PDF without text"],
)
def test_media_that_the_model_cannot_read_is_stripped_and_the_conversation_goes_on(
    recorder: Recorder,
    claude: ClaudeCode,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: bytes,
    refusal: str,
) -> None:
    (claude.work / name).write_bytes(data)
    claude.run(READ, *BASH)
    claude.run(f"call Read {json.dumps({'file_path': str(claude.work / name)})}", "--continue", *ECHO)
    with recorder.recorded() as exchanges:
        continued = claude.run(READ, *AGAIN)
    show(f"{name} in the conversation", exchanges, capsys)

    refused, *others = exchanges
    assert refused.status == 400
    assert refusal in refused.error
    assert all(exchange.status == 200 for exchange in others)
    assert continued.result["result"] == TOLD


def test_without_tool_search_every_tool_of_the_client_is_accepted(
    recorder: Recorder, claude: ClaudeCode, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder.recorded() as exchanges:
        told = claude.run(READ, *BASH, ENABLE_TOOL_SEARCH="false")
    show("all tools in the prompt", exchanges, capsys)
    assert len(exchanges[0].body["tools"]) > 18
    assert told.result["result"] == TOLD
    check_appended(exchanges)

    for choice in ({"type": "any"}, {"type": "tool", "name": "Bash"}):
        forced = recorder.say_again(exchanges[0], tool_choice=choice, max_tokens=300)
        assert forced.status == 200
        assert forced.called
        assert "not enforced" not in forced.answer_headers.get("x-mlx-gateway-warnings", "")


def test_a_web_search_which_nobody_here_can_do_is_told_to_the_model(recorder: Recorder, claude: ClaudeCode) -> None:
    """The client asks for it in a request of its own, with a tool that runs on the vendor's servers."""
    echo = ("--model", "echo", "--allowedTools", "ToolSearch,WebSearch")
    claude.run('call ToolSearch {"query": "select:WebSearch", "max_results": 5}', *echo)
    with recorder.recorded() as exchanges:
        session = claude.run('call WebSearch {"query": "lamps"}', "--continue", *echo)
    assert [exchange.called for exchange in exchanges] == [["WebSearch"], [], []]
    assert exchanges[1].body["tools"][0]["type"].startswith("web_search_")
    assert all(exchange.status == 200 for exchange in exchanges)
    assert session.result["subtype"] == "success"
    (result,) = session.blocks("user", "tool_result")
    assert "Web search error: unavailable" in json.dumps(result)


def test_a_wanted_form_of_the_answer_is_given(claude: ClaudeCode) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    session = claude.run('call StructuredOutput {"answer": "blue"}', "--json-schema", json.dumps(schema), *ECHO)
    assert session.result["structured_output"] == {"answer": "blue"}
