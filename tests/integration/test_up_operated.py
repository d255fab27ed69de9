"""A running stack, looked at and stopped by the commands that are there for it."""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path

import pytest

from gateway.command.ends import DONE, NOT_RUNNING
from tests.clients.terminal import Terminal
from tests.support.processes import REPOSITORY, wait_until
from tests.support.up import NO_SETTINGS, Up, message, run_command, up


@pytest.mark.slow
def test_what_runs_is_listed_told_of_and_stopped(tmp_path: Path) -> None:
    with up(tmp_path, env={"MLX_GATEWAY_LOG_FORMAT": "json"}) as running:
        running.wait_until_ready()
        state = ("--state", str(running.state))
        connection = http.client.HTTPConnection("127.0.0.1", int(running.url.rsplit(":", 1)[1]), timeout=30)
        headers = {"content-type": "application/json", "x-claude-code-session-id": "a_session_of_mine"}
        connection.request("POST", "/v1/messages", json.dumps(message("hello there")), headers)
        assert connection.getresponse().status == 200
        connection.close()
        names = [line.split()[0] for line in run_command("ps", *state).stdout.splitlines()]
        assert sorted(names) == ["gateway", "host", "redis", "up", "worker"]

        wait_until(lambda: "first token after" in run_command("logs", "gateway", *state).stdout, "its end is logged")
        lines = [json.loads(line) for line in run_command("logs", "gateway", *state).stdout.splitlines()]
        (ended,) = [line["fields"] for line in lines if "fields" in line]
        assert ended["outcome"] == "ok"
        assert ended["output_tokens"] == 2
        assert ended["session"]
        assert "a_session_of_mine" not in str(lines)
        assert "hello there" not in str(lines)

        told = run_command("trace", ended["request"], *state).stdout
        assert "only worker" in told
        assert "hello there" not in told
        assert [line for line in lines if " /health" in line["message"] or " /ready" in line["message"]] == []

        _watch(running)
        stopped = run_command("stop", *state)
        assert stopped.returncode == DONE, stopped.stderr
        assert running.process.wait() == 0
        assert run_command("stop", *state).returncode == NOT_RUNNING


def _watch(running: Up) -> None:
    """On a terminal `status` follows what happens; into a pipe it says it once."""
    command = [sys.executable, "-m", "gateway.command.cli", "status", "--state", str(running.state)]
    environment = {name: value for name, value in os.environ.items() if name not in (*NO_SETTINGS, "COLUMNS")}
    stuck = message("echo:hang", stream=True)
    with Terminal(command, env=environment, cwd=REPOSITORY) as terminal:
        terminal.wait_for("no requests are running")
        connection = running.open("POST", "/v1/messages", stuck)
        terminal.wait_for("interactive is read 1 [..........] 0%")
        (told,) = json.loads(run_command("status", "--json", "--state", str(running.state)).stdout)["running"]
        assert (told["stage"], told["output_tokens"]) == ("prefill", 0)
        assert "hang" not in str(told)
        connection.close()
        wait_until(lambda: running.request("GET", "/status")[1]["running"] == [], "its client has left")
    assert "worker   " in run_command("status", "--state", str(running.state)).stdout
