"""Real clients, whose worker is killed in the middle of an answer, or of a tool call: another one is there, so they
finish without asking again. Both packages, of Python and of TypeScript, with their retries switched off, and the real
Claude Code."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.clients.claude_code import ClaudeCode, install_claude_code
from tests.clients.npm import install
from tests.clients.test_typescript_sdk import VERSION as ANTHROPIC_VERSION
from tests.faults.fleet import QUICK, Fleet, fleet
from tests.support.processes import REPOSITORY, wait_until
from tests.support.queues import running_jobs
from tests.support.recorder import Recorder

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

_SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
_MOST_DEATHS = 3
_SAID = 30  # pieces before the worker dies


@pytest.fixture(scope="module")
def two_macs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("clients") / "fleet", models=(QUICK,)) as found:
        yield found


_deaths = itertools.count(1)


@pytest.fixture
def macs(two_macs: Fleet) -> Iterator[Fleet]:
    """Whole before and after. (A host gives a model up whose worker dies too often within a minute.)"""
    yield two_macs
    if next(_deaths) % _MOST_DEATHS:
        two_macs.heal()
    else:
        two_macs.renew_hosts()


def _kill_who_works(macs: Fleet) -> None:
    """The worker of the one answer that is given."""
    (job,) = running_jobs(macs.client, QUICK)
    worker = macs.client.hget(f"rq:job:{job}", "worker_name")
    assert isinstance(worker, bytes)
    os.kill(macs.lease(worker.decode()).pid, signal.SIGKILL)


_lengths = itertools.count(200)


def _asked(what: str) -> tuple[str, str]:
    """A prompt, and what is to be said or run. Each is a request of its own: one that was alone on two workers when
    they died is not run again."""
    length = next(_lengths)
    if what == "answer":
        return f"echo:words {length}", " ".join(f"word{number}" for number in range(length))
    command = "echo " + " ".join(f"lamp{number}" for number in range(length - 40))
    return f"call Bash {json.dumps({'command': command})}", command


def _url(macs: Fleet) -> str:
    return f"http://127.0.0.1:{macs.gateways[0].port}"


def _killed_after(macs: Fleet, count: int) -> Callable[[], None]:
    """To be called for each piece: with this many the worker dies, once."""
    left = [count]

    def note() -> None:
        left[0] -= 1
        if left[0] == 0:
            _kill_who_works(macs)

    return note


@pytest.mark.parametrize("what", ["answer", "call"])
def test_the_anthropic_package_reads_on(macs: Fleet, what: str) -> None:
    note, (prompt, said) = _killed_after(macs, _SAID), _asked(what)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if what == "call":
        asked["tools"] = [{"name": "Bash", "description": "Run a command", "input_schema": _SCHEMA}]
    with anthropic.Anthropic(base_url=_url(macs), api_key="any", max_retries=0, timeout=60) as client:
        with client.messages.stream(model=QUICK, max_tokens=2000, **asked) as stream:
            for event in stream:
                if event.type == "content_block_delta":
                    note()
            message = stream.get_final_message()
    (block,) = message.content
    assert (block.input["command"] if block.type == "tool_use" else block.text) == said
    assert message.stop_reason == ("tool_use" if what == "call" else "end_turn")


@pytest.mark.parametrize("what", ["answer", "call"])
def test_the_openai_package_reads_on(macs: Fleet, what: str) -> None:
    note, (prompt, said) = _killed_after(macs, _SAID), _asked(what)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if what == "call":
        asked["tools"] = [{"type": "function", "function": {"name": "Bash", "parameters": _SCHEMA}}]
    text, arguments, reason = "", "", ""
    with openai.OpenAI(base_url=f"{_url(macs)}/v1", api_key="any", max_retries=0, timeout=60) as client:
        for chunk in client.chat.completions.create(model=QUICK, max_tokens=2000, stream=True, **asked):
            for choice in chunk.choices:
                calls = choice.delta.tool_calls or ()
                text += choice.delta.content or ""
                arguments += "".join(call.function.arguments or "" for call in calls if call.function)
                reason = choice.finish_reason or reason
                if choice.delta.content or calls:
                    note()
    assert (json.loads(arguments)["command"] if what == "call" else text) == said
    assert reason == ("tool_calls" if what == "call" else "stop")


def test_the_openai_packages_responses_read_on(macs: Fleet) -> None:
    note, (prompt, said), kinds = _killed_after(macs, _SAID), _asked("answer"), []
    with openai.OpenAI(base_url=f"{_url(macs)}/v1", api_key="any", max_retries=0, timeout=60) as client:
        with client.responses.stream(model=QUICK, input=prompt) as stream:
            for event in stream:
                kinds.append(event.type)
                if event.type == "response.output_text.delta":
                    note()
            answer = stream.get_final_response()
    assert (answer.output_text, kinds[-1]) == (said, "response.completed")


_STREAMS = REPOSITORY / "tests" / "clients" / "typescript" / "streams.mjs"
_OPENAI = ("openai", "7.59.0")
_PACKAGES = {"anthropic": ("@anthropic-ai/sdk", ANTHROPIC_VERSION), "openai": _OPENAI, "responses": _OPENAI}


@pytest.mark.parametrize(
    ("package", "what", "reason"),
    [
        ("anthropic", "answer", "end_turn"),
        ("anthropic", "call", "tool_use"),
        ("openai", "answer", "stop"),
        ("openai", "call", "tool_calls"),
        ("responses", "answer", "completed"),
        ("responses", "call", "completed"),
    ],
)
def test_the_typescript_packages_read_on(macs: Fleet, package: str, what: str, reason: str) -> None:
    name, version = _PACKAGES[package]
    node = shutil.which("node")
    note, (prompt, said), pieces, line = _killed_after(macs, _SAID), _asked(what), 0, ""
    environment = {
        "PATH": os.environ["PATH"],
        "BASE_URL": _url(macs),
        "SDK": str(install(name, version) / "node_modules" / name),
        "PACKAGE": package,
        "MODEL": QUICK,
        "PROMPT": prompt,
        "TOOLS": "1" if what == "call" else "",
    }
    assert node is not None, "npm is there without node"
    with subprocess.Popen([node, _STREAMS], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line != "piece\n":
                break
            pieces += 1
            note()
    assert pieces > _SAID
    assert process.returncode == 0, "the package raised"
    got = json.loads(line)
    assert got["reason"] == reason
    assert (got["command"] if what == "call" else got["text"]) == said


@pytest.mark.claude
@pytest.mark.parametrize("what", ["answer", "call"])
def test_claude_code_finishes_its_task_and_asks_nothing_again(macs: Fleet, tmp_path: Path, what: str) -> None:
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    prompt, said = _asked(what)
    with Recorder(_url(macs)) as recorder:
        claude = ClaudeCode(
            executable=install_claude_code(),
            home=tmp_path / "home",
            work=tmp_path / "work",
            url=recorder.url,
            model=QUICK,
        )
        killed: list[str] = []

        def strike() -> None:
            wait_until(lambda: _has_said(macs), "it is in the middle", deadline_s=60)
            _kill_who_works(macs)
            killed.append("the worker")

        killer = threading.Thread(target=strike, daemon=True)
        killer.start()
        session = claude.run(prompt, "--allowedTools", "Bash")
        killer.join(60)
        exchanges = [each for each in recorder.exchanges if each.path.startswith("/v1/messages") and each.body]
    assert killed
    assert session.result["subtype"] == "success"
    assert not session.result["is_error"]
    assert all(each.stop_reason for each in exchanges if each.path.startswith("/v1/messages?"))
    if what == "call":
        (call,) = session.blocks("assistant", "tool_use")
        assert call["input"]["command"] == said
    else:
        assert session.result["result"] == said


def _has_said(macs: Fleet) -> bool:
    """Whether one answer is given, and its worker has said a good part of it."""
    jobs = running_jobs(macs.client, QUICK)
    logs = [key for key in macs.client.scan_iter("*log:*") if b"quick" in key]
    return len(jobs) == 1 and any(macs.client.xlen(key) >= 2 * _SAID for key in logs)
