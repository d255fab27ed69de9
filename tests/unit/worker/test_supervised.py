"""Servers that a command of `remotes.json` starts: a stand-in, which says so, and, slowly, mlx-lm's own server."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import ConfigError, GatewayError, ModelUnavailableError
from shared.messages import TextPart
from shared.remotes import parse_remotes
from tests.support.asked import Asked
from tests.support.models import AGENT_FULL
from tests.support.processes import free_port, is_running, wait_until
from tests.unit.worker.test_remote import ask
from worker.engines.remote.source import RemoteSource

STAND_IN = (sys.executable, "-m", "tests.support.upstream_stand_ins")


@contextmanager
def started(folder: Path, *command: str, **entry: Any) -> Iterator[Asked]:
    port = free_port()
    words = [word.replace("PORT", str(port)) for word in command]
    remote = {"id": "far", "url": f"http://127.0.0.1:{port}", "profile": "openai", "command": words, **entry}
    (folder / "remotes.json").write_text(json.dumps([remote]))
    (spec,) = (each.spec for each in parse_remotes([remote]))
    asked = Asked(RemoteSource(spec, Settings(state_dir=folder, config_dir=folder)))
    try:
        yield asked
    finally:
        assert asked.engine.unload(20)


def said(asked: Asked, key: str) -> str:
    (part,) = asked.answer(ask(key)).parts
    assert isinstance(part, TextPart)
    return part.text


def test_a_command_starts_a_server_which_is_started_again_when_it_dies_and_ends_with_its_worker(tmp_path: Path) -> None:
    with started(tmp_path, *STAND_IN, "PORT") as asked:
        first = int(said(asked, "a").split()[-1])
        os.kill(first, signal.SIGKILL)

        def answers() -> str:
            try:
                return said(asked, f"b{len(asked.events)}")
            except GatewayError:
                return ""

        second = int(wait_until(answers, "another server").split()[-1])
        assert second != first
    assert not is_running(second)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((sys.executable, "-c", "import sys; sys.exit('no such model')"), "ended with 1: no such model"),
        (("no-such-program-here",), "no-such-program-here"),
    ],
)
def test_a_command_that_does_not_come_up_is_told_with_its_last_words(
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ModelUnavailableError, match=words), started(tmp_path, *command):
        pass


def test_our_secrets_are_not_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_GATEWAY_SECRET", "s" * 32)
    monkeypatch.setenv("THEIR_KEY", "k")
    shown = "import os, sys; sys.exit(' '.join(n for n in os.environ if n.startswith(('MLX_', 'THEIR'))))"
    with pytest.raises(ModelUnavailableError, match=r"ended with 1: THEIR_KEY$"):
        with started(tmp_path, sys.executable, "-c", shown, key_env="THEIR_KEY"):
            pass


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"command": []}, "a program and its arguments"),
        ({"command": ["x", 1]}, "expected a list of texts"),
        ({"command": "x"}, "expected a list of texts"),
        ({"command": ["x"], "url": "http://studio.local:1"}, "127.0.0.1"),
        ({"command": ["/opt/mistralrs", "serve", "-l", "log.txt"]}, "writes whole prompts"),
    ],
)
def test_commands_that_cannot_be_meant_are_refused(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_remotes([{"id": "far", "url": "http://127.0.0.1:1", **entry}])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_mlx_lms_own_server_is_started_and_asked(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "mlx_lm", "server", "--model", str(AGENT_FULL), "--port", "PORT")
    with started(tmp_path, *command, profile="mlx-lm", model=str(AGENT_FULL)) as asked:
        assert "Hello" in said(asked, "a")
