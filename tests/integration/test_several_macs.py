"""Two Macs as one, each with processes of its own: shared in a running `up`, joined with one line, revoked."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.command.runfile import read_running
from tests.support.eavesdropper import Wire
from tests.support.processes import Running, free_port, running, wait_until
from tests.support.up import NO_SETTINGS, Up, run_command, up

# redis-py tells the server about itself and does without when it may not.
COURTESIES = ("client|setinfo", "client|maint_notifications", "client")
PROMPT = "a prompt that nobody else may read"
LONG = "word " * 150
SLOW = {"models": [{"id": "echo", "source": "echo", "engine": "echo", "options": {"step_ms": 10}}]}


@contextlib.contextmanager
def joined(folder: Path, address: str, code: str, name: str) -> Iterator[Running]:
    """A Mac with a state folder of its own that joins and serves."""
    words = ("-m", "gateway.command.cli", "join", address, code, "--name", name, "--engine", "echo")
    words += ("--state", str(folder / name), "--config", str(folder / "config"))
    with running(*words, log=folder / f"{name}.log", env=NO_SETTINGS) as process:
        process.wait_for_line(f"joined as {name}")
        yield process


def _workers(stack: Up, host: str) -> list[str]:
    status, found = stack.request("GET", "/status")
    assert status == 200
    return [
        each["name"] for each in found["workers"] if each["name"].startswith(f"{host}.") and each["state"] == "ready"
    ]


def _code(said: str) -> str:
    match = re.search(r"^mlx-gateway join \S+ ([A-Z0-9-]+)$", said, re.MULTILINE)
    assert match is not None, said
    return match[1]


@pytest.mark.slow
def test_a_mac_joins_a_running_stack_serves_and_is_locked_out(tmp_path: Path) -> None:
    door_port = free_port()
    env = {"MLX_GATEWAY_DOOR_PORT": str(door_port), "MLX_GATEWAY_HTTPS_PORT": "0", "MLX_GATEWAY_EXECUTION_TTL_S": "3"}
    config = tmp_path / "config"
    config.mkdir()
    (config / "models.json").write_text(json.dumps(SLOW))
    with up(tmp_path, "--name", "studio", "--config", str(config), env=env) as stack, Wire(door_port) as wire:
        stack.wait_until_ready()
        state = ("--state", str(stack.state))
        shared = run_command("share", *state, env=env)
        assert shared.returncode == 0, shared.stderr
        assert re.search(r"^https on https://localhost:\d+$", shared.stderr, re.MULTILINE), shared.stderr
        with joined(tmp_path, f"127.0.0.1:{wire.port}", _code(shared.stdout), "mac2") as mac2:
            wait_until(lambda: _workers(stack, "mac2"), "its worker serves", every_s=0.1)
            _serve_on_both(stack)
            assert PROMPT.encode() not in wire.seen
            assert len(wire.seen) > 10_000
            assert not (tmp_path / "mac2" / "secret").exists()
            _check_nothing_was_denied(stack)
            _revoke_while_it_answers(stack, state)
            listed = run_command("hosts", *state).stdout
            assert re.search(r"^mac2 +revoked", listed, re.MULTILINE), listed
            assert mac2.wait() == 2
            assert "this host was revoked" in mac2.output()
        again = run_command("host", "--engine", "echo", "--state", str(tmp_path / "mac2"))
        assert (again.returncode, "revoked" in again.stderr) == (2, True), again.stderr
        assert len(again.stderr.splitlines()) == 1
        alone = run_command("up", "--engine", "echo", "--state", str(tmp_path / "mac2"))
        assert "up --alone" in alone.stderr


def _serve_on_both(stack: Up) -> None:
    """Until the joined Mac has answered, too."""
    found = set()
    for number in range(40):
        status, answer = stack.say(f"{PROMPT} {number}")
        assert (status, answer["content"][0]["text"]) == (200, f"{PROMPT} {number}")
        status, counted = stack.request("POST", "/v1/messages/count_tokens", _message("one two three"))
        assert (status, counted["input_tokens"]) == (200, 3)
        found |= {host for host in ("mac2", "studio") if _has_served(stack, host)}
        if len(found) == 2:
            return
    raise AssertionError(f"only {found} answered")


def _has_served(stack: Up, host: str) -> bool:
    with _operator(stack) as operator:
        return any(
            int(operator.hget(f"rq:worker:{name}", "successful_job_count") or 0) for name in _workers(stack, host)
        )


def _operator(stack: Up) -> redis.Redis:
    found = read_running(stack.state)
    assert found is not None
    return redis.Redis.from_url(found.redis_url)


def _check_nothing_was_denied(stack: Up) -> None:
    with _operator(stack) as operator:
        assert [each for each in operator.acl_log() if each["object"] not in COURTESIES] == []


def _revoke_while_it_answers(stack: Up, state: tuple[str, ...]) -> None:
    """What it was asked is answered by the other."""
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(stack.say, f"{LONG}{number}", max_tokens=400) for number in range(8)]
        wait_until(lambda: _in_flight(stack, "mac2"), "it has some of them")
        done = run_command("revoke", "mac2", *state)
        assert (done.returncode, done.stdout) == (0, "mac2 is locked out\n"), done.stderr
        answers = [each.result() for each in asked]
    assert [status for status, _ in answers] == [200] * 8
    texts = [answer["content"][0]["text"] for _, answer in answers]
    assert texts == [f"{LONG}{number}" for number in range(8)]
    wait_until(lambda: _workers(stack, "mac2") == [], "it is gone", every_s=0.1)


def _in_flight(stack: Up, host: str) -> int:
    _, found = stack.request("GET", "/status")
    return sum(each["in_flight"] for each in found["workers"] if each["name"].startswith(f"{host}."))


def _message(text: str) -> dict[str, Any]:
    return {"model": "current-model", "max_tokens": 50, "messages": [{"role": "user", "content": text}]}


@pytest.mark.slow
def test_a_mac_joins_as_a_gateway_answers_with_the_hosts_of_the_others_and_starts_again(tmp_path: Path) -> None:
    door_port, port = free_port(), free_port()
    env = {"MLX_GATEWAY_DOOR_PORT": str(door_port), "MLX_GATEWAY_HTTPS_PORT": "0"}
    with up(tmp_path, "--name", "studio", "--engine", "echo", env=env) as stack:
        stack.wait_until_ready()
        shared = run_command("share", "--gateway", "--state", str(stack.state), env=env)
        assert shared.returncode == 0, shared.stderr
        line = shared.stdout.split()
        assert line[-1] == "--gateway"
        assert "reads all prompts" in shared.stderr
        where = ("--state", str(tmp_path / "desk"), "--port", str(port))
        words = ("join", f"127.0.0.1:{door_port}", line[-2], "--gateway", "--name", "desk", *where)
        for command in (words, ("gateway", *where)):
            log = tmp_path / f"{command[0]}.log"
            with running("-m", "gateway.command.cli", *command, log=log, env=NO_SETTINGS) as desk:
                wait_until(lambda: _says(port, PROMPT) == PROMPT, "it answers", every_s=0.1)
                if command is words:
                    assert "joined as desk, a gateway" in desk.output()
        listed = run_command("hosts", "--state", str(stack.state)).stdout
        assert re.search(r"^desk .*a gateway$", listed, re.MULTILINE), listed
        revoked = run_command("revoke", "desk", "--state", str(stack.state)).stdout
        assert "told the secret" in revoked


def _says(port: int, text: str) -> str:
    """What the gateway at this port answers; empty while it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/messages", json.dumps(_message(text)), {"content-type": "application/json"})
        response = connection.getresponse()
        body = json.loads(response.read())
        return str(body["content"][0]["text"]) if response.status == 200 else ""
    except OSError:
        return ""
    finally:
        connection.close()
