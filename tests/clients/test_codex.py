"""The real Codex: commands, sessions that are resumed, servers of tools, in its own words and in ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.redis_server import RedisServer
from tests.clients.codex import Codex, install_codex, server_flags, turns_of
from tests.support.appended import check_appended
from tests.support.processes import REPOSITORY
from tests.support.recorder import Exchange, Recorder
from tests.support.served import Served, served
from tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LAMPS = server_flags("lamps", REPOSITORY / "tests" / "clients" / "lamps_server.py")


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    with RedisServer() as server, served(server.url, folder) as gateway, gateway.worker():
        yield gateway


def codex(folder: Path, url: str, model: str, **more: Any) -> Codex:
    home, work = folder / "home", folder / "work"
    for each in (home, work):
        each.mkdir(exist_ok=True)
    return Codex(executable=install_codex(), home=home, work=work, url=url, model=model, **more)


def asked(recorder: Recorder) -> list[Exchange]:
    return [exchange for exchange in recorder.exchanges if exchange.method == "POST"]


def test_a_task_and_the_session_resumed_compute_only_what_they_append(stack: Stack, tmp_path: Path) -> None:
    with Recorder(stack.url) as recorder:
        agent = codex(tmp_path, recorder.url, stack.demo)
        first = agent.run("use exec_command to run: `echo lamps`")
        second = agent.run("use exec_command to run: `echo again`", resumed=True)
        with recorder.recorded():
            pass
        exchanges = asked(recorder)
    for run, output in ((first, "lamps\n"), (second, "again\n")):
        (command,) = run.items("command_execution")
        assert (command["aggregated_output"], command["exit_code"]) == (output, 0)
        assert run.words.startswith("The tool said: ")
        assert not run.items("error"), "the catalogue knows the model"
    assert {exchange.path for exchange in exchanges} == {"/v1/responses"}
    assert len(json.dumps(exchanges[0].body)) < 20_000
    turns = turns_of(exchanges)
    for turn in turns:
        print(turn)
    assert len(turns) == len(exchanges) == 4
    check_appended(turns)


def test_a_tool_of_a_server_is_called_by_its_namespace(echo: Served, tmp_path: Path) -> None:
    agent = codex(tmp_path, f"http://127.0.0.1:{echo.port}", "echo", flags=LAMPS)
    run = agent.run('call mcp__lamps__count {"colour": "blue"}')
    (call,) = run.items("mcp_tool_call")
    assert (call["server"], call["tool"], call["status"]) == ("lamps", "count", "completed")
    assert "seven blue lamps" in run.words


def test_tools_that_its_search_found_are_called_and_free_text_edits_a_file(echo: Served, tmp_path: Path) -> None:
    entry = {"supports_search_tool": True, "apply_patch_tool_type": "freeform"}
    with Recorder(f"http://127.0.0.1:{echo.port}") as recorder:
        agent = codex(tmp_path, recorder.url, "echo", flags=LAMPS, entry=entry)
        agent.run('call tool_search {"query": "lamps", "limit": 3}')
        run = agent.run('call mcp__lamps__count {"colour": "red"}', resumed=True)
        notes = agent.work / "notes.txt"
        notes.write_text("one\ntwo\n")
        patch = "*** Begin Patch\n*** Update File: notes.txt\n@@\n one\n-two\n+three\n*** End Patch\n"
        agent.run(f"call apply_patch {json.dumps({'input': patch})}", resumed=True)
        with recorder.recorded():
            pass
    assert "seven red lamps" in run.words
    assert notes.read_text() == "one\nthree\n"
    bodies = [exchange.body for exchange in asked(recorder)]
    assert len({json.dumps(body["tools"]) for body in bodies}) == 1, "found tools stand in the conversation alone"
    kinds = [item["type"] for item in bodies[-1]["input"]]
    assert {"tool_search_output", "custom_tool_call_output"} <= set(kinds)


def test_codex_has_not_to_try_again_where_it_asks_for_a_websocket(echo: Served, tmp_path: Path) -> None:
    """Its provider says that it can do without HTTP: one refusal, and it goes on with HTTP."""
    with Recorder(f"http://127.0.0.1:{echo.port}") as recorder:
        flags = ["-c", "model_providers.mlx-gateway.supports_websockets=true"]
        run = codex(tmp_path, recorder.url, "echo", flags=flags).run("hello")
        with recorder.recorded():
            pass
    assert "hello" in run.words
    refused = [exchange.status for exchange in recorder.exchanges if exchange.method == "GET"]
    assert refused in ([], [426]), "its list of models aside"
