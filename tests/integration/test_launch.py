"""`mlx-gateway launch claude` finds out what is served and sets Claude Code up for it."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.command.ends import NOT_THERE, UNUSABLE, exit_status
from gateway.command.served import read_models
from gateway.keys.file import KeyFile
from gateway.keys.making import Wish, add_key, revoke_key
from shared.errors import ConfigError
from tests.support.up import Up, run_command, up

KEY = "a key with 'quotes'"
MODELS = [
    {"id": "big", "source": "echo", "engine": "echo", "options": {"context_tokens": 50_000}},
    {"id": "small/one", "source": "echo", "engine": "echo", "options": {"context_tokens": 30_000, "load_ms": 500}},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Two models, of which the small one is loaded when it is asked for and answers to haiku."""
    folder = tmp_path_factory.mktemp("up")
    config = folder / "config"
    config.mkdir()
    models = [MODELS[0], MODELS[1] | {"load": "on-demand"}]
    (config / "models.json").write_text(json.dumps({"models": models}))
    (config / "claude_routing.json").write_text(json.dumps({"tiers": {"haiku": "small/one"}}))
    env = {"MLX_GATEWAY_API_KEY": KEY, "MLX_GATEWAY_DEFAULT_MODEL": "big"}
    with up(folder, "--config", str(config), env=env) as running:
        running.wait_until_ready()
        yield running


def launch(served: Up, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run_command(
        "launch", "claude", "--state", str(served.state), *arguments, env={"MLX_GATEWAY_API_KEY": KEY} | env
    )


def made_key(served: Up, **wish: Any) -> str:
    key, _ = add_key(KeyFile(served.state), Wish(name=f"k{next(_numbers)}", **wish))
    return key


_numbers = itertools.count()


def environment_of(script: str) -> dict[str, str]:
    """What a shell that runs the script has in its environment."""
    said = subprocess.run(["sh", "-c", f"{script}\nenv -0"], capture_output=True, text=True, check=True)
    return dict(entry.split("=", 1) for entry in said.stdout.split("\0") if entry)


def test_the_printed_environment_is_what_a_shell_gets(served: Up) -> None:
    said = launch(served, "--print-env")
    assert said.returncode == 0, said.stderr
    assert (
        environment_of(f"export ANTHROPIC_API_KEY=other\n{said.stdout}").items()
        >= {
            "ANTHROPIC_BASE_URL": served.url,
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "ANTHROPIC_MODEL": "anthropic/big",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "anthropic/small/one",
            "ANTHROPIC_DEFAULT_OPUS_MODEL": "anthropic/big",
            "CLAUDE_CODE_SUBAGENT_MODEL": "anthropic/big",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "50000",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "12500",
        }.items()
    )
    assert "ANTHROPIC_API_KEY" not in environment_of(f"export ANTHROPIC_API_KEY=other\n{said.stdout}")


def test_a_model_that_is_not_loaded_yet_is_loaded_and_its_window_known(served: Up) -> None:
    said = launch(served, "--print-env", "--model", "small/one")
    printed = environment_of(said.stdout)
    assert printed["ANTHROPIC_MODEL"] == "anthropic/small/one"
    assert printed["ANTHROPIC_DEFAULT_OPUS_MODEL"] == "anthropic/small/one"
    assert printed["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "30000"


def test_the_agent_gets_environment_and_arguments_and_our_place(served: Up, tmp_path: Path) -> None:
    agent = tmp_path / "claude"
    agent.write_text('#!/bin/sh\necho "$ANTHROPIC_MODEL $ANTHROPIC_API_KEY $*"\nexit 3\n')
    agent.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = launch(served, "--", "-p", "hi --state x", PATH=path, ANTHROPIC_API_KEY="other")
    assert (said.stdout, said.returncode) == ("anthropic/big  -p hi --state x\n", 3)


def test_a_model_that_does_not_exist_is_said_with_those_that_do(served: Up) -> None:
    said = launch(served, "--print-env", "--model", "bgi")
    assert said.returncode == NOT_THERE
    assert said.stdout == ""
    assert "bgi" in said.stderr
    assert "there are: big, small/one" in said.stderr


@pytest.mark.parametrize(
    ("models", "main", "haiku", "said"),
    [
        ((), "big", "small/one", ""),
        (("small/*",), "small/one", "small/one", ""),
        (("big",), "big", "big", "the key may not use the model of haiku: big answers there"),
    ],
    ids=["all", "not the default", "not a tier's"],
)
def test_a_key_of_some_models_gets_those_in_place_of_others(
    served: Up, models: tuple[str, ...], main: str, haiku: str, said: str
) -> None:
    key = made_key(served, models=models)
    told: list[str] = []
    found = read_models(served.url, key, None, say=told.append)
    assert (found.main, found.tiers.get("haiku", found.main)) == (main, haiku)
    assert [line for line in told if not line.startswith("waiting")] == ([said] if said else [])
    assert read_models(served.url, key, None, say=told.append, with_tiers=False).tiers == {}


@pytest.mark.parametrize(
    ("wish", "model", "said"),
    [
        ({"models": ("small/*",)}, "big", "may not use 'big'; it may use: small/one"),
        ({"models": ("other",)}, None, "it may use none of the models that are served"),
        ({"role": "viewer"}, None, "has the role viewer, which may not do this; an agent needs a key that may"),
    ],
)
def test_a_key_that_may_not_is_told_what_it_may(served: Up, wish: dict[str, Any], model: str | None, said: str) -> None:
    key = made_key(served, **wish)
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        read_models(served.url, key, model, say=print)
    assert exit_status(raised.value) == UNUSABLE


def test_a_key_that_was_revoked_is_said_with_what_helps(served: Up) -> None:
    key, record = add_key(KeyFile(served.state), Wish(name="gone"))
    assert revoke_key(KeyFile(served.state), record.name) == ""
    with pytest.raises(ConfigError, match=r"'gone' is revoked; set MLX_GATEWAY_API_KEY to one that it knows"):
        read_models(served.url, key, None, say=print)


def test_a_missing_key_is_said(served: Up) -> None:
    said = launch(served, "--print-env", MLX_GATEWAY_API_KEY="")
    assert said.returncode == UNUSABLE
    assert "key" in said.stderr


def test_without_claude_code_it_says_how_to_get_it(served: Up, tmp_path: Path) -> None:
    said = launch(served, PATH=str(tmp_path))
    assert said.returncode == NOT_THERE
    assert "npm install -g @anthropic-ai/claude-code" in said.stderr
