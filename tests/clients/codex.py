"""The real Codex from npm: run headless in an empty home. Nothing of its traffic is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.command.agents.base import ServedModels, Setting
from gateway.command.agents.registry import AGENTS
from tests.clients.claude_code import isolated
from tests.clients.npm import install
from tests.support.recorder import Exchange

VERSION = "0.171.0"
_RUN_S = 100.0


def install_codex() -> Path:
    """The executable of this platform, whether or not npm ran the package's install script."""
    vendor = install("@openai/codex", VERSION) / "node_modules" / "@openai"
    programs = [path for path in vendor.glob("codex-*/vendor/*/bin/codex") if os.access(path, os.X_OK)]
    if not programs:
        pytest.fail(f"@openai/codex@{VERSION} has no program for this platform")
    return programs[0]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `codex exec` printed: its events, in order."""

    events: tuple[dict[str, Any], ...]

    def items(self, kind: str) -> list[dict[str, Any]]:
        done = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item for item in done if item["type"] == kind]

    @property
    def words(self) -> str:
        return str(self.items("agent_message")[-1]["text"])


@dataclass(frozen=True, kw_only=True)
class Codex:
    """One user's Codex, set up as `mlx-gateway launch codex` does it. `flags` are the person's own, `entry` what
    the catalogue says besides."""

    executable: Path
    home: Path
    work: Path
    url: str
    model: str
    context_tokens: int = 65_536
    flags: Sequence[str] = ()
    entry: Mapping[str, Any] = field(default_factory=dict)

    def run(self, prompt: str, *, resumed: bool = False) -> Run:
        """`codex exec [resume --last] PROMPT`. Fails the test when it does not end well in time."""
        models = ServedModels(main=self.model, context_tokens=self.context_tokens)
        start = AGENTS["codex"].prepare(Setting(url=self.url, key="", models=models, folder=self.home / "agents"))
        catalogue = self.home / "agents" / "codex-models.json"
        (entry,) = json.loads(catalogue.read_text())["models"]
        catalogue.write_text(json.dumps({"models": [entry | self.entry]}))
        command = ["exec", "--skip-git-repo-check", "--json", "-s", "danger-full-access", *start.arguments, *self.flags]
        done = subprocess.run(
            [self.executable, *command, *(["resume", "--last"] if resumed else []), prompt],
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
            cwd=self.work,
            env=start.environment_in(isolated(self.home)),
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            pytest.fail(f"codex ended with {done.returncode}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return Run(events=tuple(json.loads(line) for line in lines))


def server_flags(name: str, script: Path) -> list[str]:
    """An MCP server of the person's."""
    command = f'mcp_servers.{name}.command="{sys.executable}"'
    return ["-c", command, "-c", f'mcp_servers.{name}.args=["{script}"]']


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Of one answer: its figures."""

    prompt_tokens: int
    computed_tokens: int
    output_tokens: int


def turns_of(exchanges: Sequence[Exchange]) -> list[Turn]:
    """Of every answer that came whole, in order."""
    endings = [data for exchange in exchanges for name, data in exchange.events if name == "response.completed"]
    return [_turn(data["response"]["usage"]) for data in endings]


def _turn(usage: Mapping[str, Any]) -> Turn:
    cached = usage["input_tokens_details"]["cached_tokens"]
    return Turn(
        prompt_tokens=usage["input_tokens"],
        computed_tokens=usage["input_tokens"] - cached,
        output_tokens=usage["output_tokens"],
    )
