"""One `up` with the echo engine: what it serves, what the other commands say of it, and what it survives."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.command.ends import NOT_RUNNING, NOT_THERE
from gateway.command.runfile import read_running
from tests.support.processes import is_running, wait_until
from tests.support.up import Up, message, run_command, up


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("up")) as running:
        running.wait_until_ready()
        yield running


def _pid(served: Up, kind: str) -> int:
    """Process id that `status` gives for the host, or the worker's own."""
    said = run_command("status", "--state", str(served.state)).stdout
    if kind == "host":
        found = re.search(r"^host .*\(pid (\d+)\)", said, re.MULTILINE)
        return int(found[1]) if found else 0
    children = [pid for pid in served.processes() if f"-m {kind} " in _command(pid)]
    return children[0] if children else 0


def _command(pid: int) -> str:
    return subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()


def test_it_says_ready_once_and_then_answers_both_dialects(served: Up) -> None:
    assert re.findall(r"^ready on .*$", served.process.output(), re.MULTILINE) == [f"ready on {served.url}"]
    status, answer = served.say("hello there")
    assert (status, answer["content"][0]["text"]) == (200, "hello there")
    status, answer = served.request("POST", "/v1/chat/completions", message("hello you"))
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "hello you")


def test_a_second_up_on_the_same_state_is_refused(served: Up) -> None:
    said = run_command("up", "--engine", "echo", "--port", "0", "--state", str(served.state))
    assert said.returncode == 1
    assert "already up" in said.stderr
    assert served.url in said.stderr
    assert read_running(served.state) is not None, "the refused one must not take the file of the first away"
    assert served.say("still here")[0] == 200


def test_a_port_in_use_is_a_clear_error(served: Up, tmp_path: Path) -> None:
    port = served.url.rsplit(":", 1)[1]
    said = run_command("up", "--engine", "echo", "--port", port, "--state", str(tmp_path / "other"))
    assert said.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said.stderr
    assert "--port" in said.stderr


def test_status_and_models_show_what_runs(served: Up) -> None:
    said = run_command("status", "--state", str(served.state)).stdout
    assert served.url in said
    assert "echo is ready" in said
    assert re.search(r"^worker +\S+\.echo\.\S+  echo  ready", said, re.MULTILINE)
    assert run_command("models", "--state", str(served.state)).stdout.split() == ["echo"]


def test_launch_prints_an_environment_from_the_served_model(served: Up) -> None:
    said = run_command("launch", "claude", "--print-env", "--state", str(served.state))
    assert f"export ANTHROPIC_BASE_URL={served.url}\n" in said.stdout
    assert "export ANTHROPIC_MODEL=anthropic/echo\n" in said.stdout
    assert "export CLAUDE_CODE_MAX_CONTEXT_TOKENS=200000\n" in said.stdout


def test_launch_runs_the_agent_in_that_environment(served: Up, tmp_path: Path) -> None:
    agent = tmp_path / "claude"
    agent.write_text('#!/bin/sh\necho "url=$ANTHROPIC_BASE_URL key=$ANTHROPIC_API_KEY args=$*"\n')
    agent.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ANTHROPIC_API_KEY": "sk-other"}
    said = run_command("launch", "claude", "--state", str(served.state), "--", "-p", "hi --state x", env=env)
    assert said.stdout.strip() == f"url={served.url} key= args=-p hi --state x"


def test_commands_that_find_nothing_say_how_to_start(tmp_path: Path) -> None:
    for command in (["status"], ["models"], ["drain", "w"], ["launch", "claude", "--print-env"]):
        said = run_command(*command, "--state", str(tmp_path))
        assert said.returncode == NOT_RUNNING
        assert "mlx-gateway up" in said.stderr


def test_a_drained_worker_is_replaced(served: Up) -> None:
    worker = re.search(r"^worker +(\S+)", run_command("status", "--state", str(served.state)).stdout, re.MULTILINE)
    assert worker is not None
    assert run_command("drain", worker[1], "--state", str(served.state)).returncode == 0

    def replaced() -> bool:
        said = run_command("status", "--state", str(served.state)).stdout
        return bool(re.search(r"^worker +\S+  echo  ready", said, re.MULTILINE)) and worker[1] not in said

    wait_until(replaced, "a new worker serves", every_s=0.2)
    assert served.say("hello")[0] == 200


def test_draining_a_worker_that_is_not_there_names_those_that_are(served: Up) -> None:
    said = run_command("drain", "nobody", "--state", str(served.state))
    assert said.returncode == NOT_THERE
    assert "echo." in said.stderr


def test_an_answer_outlives_its_only_worker(served: Up) -> None:
    """The host starts another one, and the answer goes on where it stood."""
    worker = wait_until(lambda: _pid(served, "worker"), "the worker runs")
    words = 30_000
    connection = served.open("POST", "/v1/messages", message(f"echo:words {words}", max_tokens=words, stream=True))
    stream = connection.getresponse()
    said = b"".join(iter(stream.readline, b"event: content_block_delta\n"))
    os.kill(worker, signal.SIGKILL)
    said += stream.read()
    connection.close()
    events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith(b"data: ")]
    told = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    assert told.split() == [f"word{number}" for number in range(words)]
    assert events[-1]["type"] == "message_stop"
    assert not is_running(worker)


@pytest.mark.parametrize("part", ["gateway", "worker.host.host"])
def test_a_killed_part_is_started_again(served: Up, part: str) -> None:
    before = wait_until(lambda: _pid(served, part), f"the {part} runs")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: _pid(served, part) not in (0, before), f"another {part} runs", every_s=0.1)
    wait_until(lambda: served.request("GET", "/ready")[0] == 200, "it is ready again", every_s=0.1)
    wait_until(lambda: served.say("hello")[0] == 200, "it answers again", every_s=0.1)


def test_while_the_gateway_restarts_clients_wait_and_are_not_refused(served: Up) -> None:
    before = wait_until(lambda: _pid(served, "gateway"), "the gateway runs")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not is_running(before), "it is dead")
    try:
        assert served.request("GET", "/health")[0] == 200
    except http.client.RemoteDisconnected:
        pytest.fail("a client that connected after the death was dropped")


def test_a_killed_redis_comes_back_empty_and_everything_registers_again(served: Up) -> None:
    redis = next(pid for pid in served.processes() if "redis-server" in _command(pid) and "guard" not in _command(pid))
    os.kill(redis, signal.SIGKILL)
    wait_until(lambda: not is_running(redis), "it is dead")
    wait_until(lambda: served.request("GET", "/ready")[0] == 200, "ready again", every_s=0.1)
    wait_until(lambda: served.say("hello")[0] == 200, "it answers again", every_s=0.1)
