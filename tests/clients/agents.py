"""The real OpenCode, Qwen Code and pi from npm, and Aider from PyPI: run headless in an empty home, as `mlx-gateway
launch` starts them. Nothing of their traffic is kept."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.command.agents.base import ServedModels, Setting
from gateway.command.agents.registry import AGENTS
from tests.clients.claude_code import isolated
from tests.clients.npm import install
from tests.clients.packages import interpreter
from tests.support.recorder import Exchange

NODE = "24.21.0"  # what Qwen Code and pi need: npm's node 20 installs older ones
OPENCODE, QWEN, PI, AIDER = "1.18.33", "0.24.4", "1.6.0", "0.86.2"
_RUN_S = 200.0


def _node() -> Path:
    return install("node", NODE) / "node_modules" / "node" / "bin" / "node"


def _of_npm(package: str, version: str, name: str) -> tuple[Path, ...]:
    """The command of a script that node runs."""
    folder = install(package, version) / "node_modules" / package
    return _node(), folder / json.loads((folder / "package.json").read_text())["bin"][name]


def _opencode() -> tuple[Path, ...]:
    """The executable of this platform, whether or not npm ran the package's install script."""
    folder = install("opencode-ai", OPENCODE) / "node_modules"
    programs = [path for path in folder.glob("opencode-linux-*/bin/opencode") if os.access(path, os.X_OK)]
    programs += [path for path in folder.glob("opencode-darwin-*/bin/opencode") if os.access(path, os.X_OK)]
    if not programs:
        pytest.fail(f"opencode-ai@{OPENCODE} has no program for this platform")
    return (min(programs, key=lambda path: len(str(path))),)


def _aider() -> tuple[Path, ...]:
    return (interpreter("aider", f"aider-chat=={AIDER}").parent / "aider",)


@dataclass(frozen=True, kw_only=True)
class Program:
    """`command` gives what is run, `before` the words before what the launcher adds, `first` and `again` those around
    the prompt `{}`: of a new conversation, and of the last one."""

    name: str
    version: str
    command: Callable[[], Sequence[Path]]
    first: tuple[str, ...]
    again: tuple[str, ...]
    before: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


PROGRAMS: Mapping[str, Program] = {
    program.name: program
    for program in (
        Program(
            name="opencode",
            version=OPENCODE,
            command=_opencode,
            before=("run",),
            first=("{}",),
            again=("-c", "{}"),
        ),
        Program(
            name="qwen",
            version=QWEN,
            command=lambda: _of_npm("@qwen-code/qwen-code", QWEN, "qwen"),
            first=("--yolo", "-p", "{}"),
            again=("--yolo", "-c", "-p", "{}"),
        ),
        Program(
            name="pi",
            version=PI,
            command=lambda: _of_npm("@earendil-works/pi-coding-agent", PI, "pi"),
            first=("-p", "{}"),
            again=("-c", "-p", "{}"),
            environment={"PI_OFFLINE": "1"},
        ),
        Program(
            name="aider",
            version=AIDER,
            command=_aider,
            before=("notes.txt", "--yes-always", "--no-check-update"),
            # A stream of its has no usage: it does not ask for it.
            first=("--no-stream", "--message", "{}"),
            again=("--no-stream", "--restore-chat-history", "--message", "{}"),
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Of one answer: its figures. `is_main` where it belongs to the conversation and is no side request."""

    prompt_tokens: int
    computed_tokens: int
    output_tokens: int
    is_main: bool = True

    def __str__(self) -> str:
        cached = self.prompt_tokens - self.computed_tokens
        return f"{self.prompt_tokens:>8}{self.computed_tokens:>10}{cached:>8}  {'main' if self.is_main else 'side'}"


def turns_of(exchanges: Sequence[Exchange]) -> list[Turn]:
    """Of every answer over Chat Completions, in order. The conversation is what has the system prompt of the longest
    request: titles and messages for commits are asked for with others."""
    longest = max(exchanges, key=lambda exchange: len(json.dumps(exchange.body)))
    system = longest.body["messages"][0]
    return [_turn(_usage(each), is_main=each.body["messages"][0] == system) for each in exchanges]


def _usage(exchange: Exchange) -> Mapping[str, Any]:
    if isinstance(exchange.answer, dict):
        return dict(exchange.answer["usage"])
    return dict([data["usage"] for _, data in exchange.events if data and data.get("usage")][-1])


def _turn(usage: Mapping[str, Any], *, is_main: bool) -> Turn:
    return Turn(
        prompt_tokens=usage["prompt_tokens"],
        computed_tokens=usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"],
        output_tokens=usage["completion_tokens"],
        is_main=is_main,
    )


@dataclass(frozen=True, kw_only=True)
class Agent:
    """One user's agent. `home` starts empty, `work` is the folder it works in."""

    program: Program
    home: Path
    work: Path
    url: str
    model: str
    context_tokens: int = 65_536

    @property
    def version(self) -> str:
        """What it says itself."""
        said = self._say([*map(str, self.program.command()), "--version"], isolated(self.home))
        return said.split()[-1]

    def run(self, prompt: str, *, resumed: bool = False) -> str:
        """What it prints. Fails the test when it does not end well in time."""
        words = self.program.again if resumed else self.program.first
        return self._say(*self._start([prompt if word == "{}" else word for word in words]))

    def converse(self, *prompts: str, resumed: bool = False) -> list[str]:
        """What one process answers, which gets each prompt when it has answered the one before, as Qwen Code can."""
        kinds = ("--input-format", "stream-json", "--output-format", "stream-json")
        command, environment = self._start(["--yolo", *(["-c"] if resumed else []), *kinds])
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=self.work, env=environment, **pipes) as process:
            overtime = threading.Timer(_RUN_S, process.kill)
            overtime.start()
            try:
                said = [_answer(process, prompt) for prompt in prompts]
                process.stdin.close()  # type: ignore[union-attr]
                assert process.wait() == 0
            finally:
                overtime.cancel()
                process.kill()
        return said

    def _start(self, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The command, and its environment."""
        models = ServedModels(main=self.model, context_tokens=self.context_tokens)
        setting = Setting(url=self.url, key="", models=models, folder=self.home / "agents")
        start = AGENTS[self.program.name].prepare(setting)
        environment = start.environment_in(isolated(self.home)) | dict(self.program.environment)
        command = [*self.program.command(), *self.program.before, *start.arguments, *words]
        return [str(word) for word in command], environment

    def _say(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
            cwd=self.work,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            pytest.fail(f"{self.program.name} ended with {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done.stdout


def _answer(process: subprocess.Popen[str], prompt: str) -> str:
    """To one prompt, of a process that speaks lines of JSON."""
    assert process.stdin is not None
    assert process.stdout is not None
    line = {"type": "user", "message": {"role": "user", "content": prompt}}
    process.stdin.write(json.dumps(line) + "\n")
    process.stdin.flush()
    for event in map(json.loads, process.stdout):
        if event["type"] == "result":
            return str(event["result"])
    raise AssertionError(f"it ended with {process.wait()} before it had answered")
