"""Servers that a command of `remotes.json` starts: a stand-in, which says so, and, slowly, mlx-lm's own server."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import ConfigError, GatewayError, ModelUnavailableError
from shared.messages import TextPart
from shared.remote_commands import completed
from shared.remotes import parse_remotes
from tests.support.asked import Asked
from tests.support.mistralrs_stand_in import install
from tests.support.models import AGENT_FULL
from tests.support.processes import free_port, is_running, wait_until
from tests.unit.worker.test_remote import ask
from worker.engines.remote.source import RemoteSource

STAND_IN = (sys.executable, "-m", "tests.support.upstream_stand_ins")


@contextmanager
def started(
    folder: Path, *command: str, report: Callable[[float], None] = lambda done: None, **entry: Any
) -> Iterator[Asked]:
    port = free_port()
    words = [word.replace("PORT", str(port)) for word in command]
    remote = {"id": "far", "url": f"http://127.0.0.1:{port}", "profile": "openai", "command": words, **entry}
    (folder / "remotes.json").write_text(json.dumps([remote]))
    (spec,) = (each.spec for each in parse_remotes([remote]))
    asked = Asked(RemoteSource(spec, Settings(state_dir=folder, config_dir=folder)), report)
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
        ({"command": ["x", "--host", "0.0.0.0"]}, "whole network in at 0.0.0.0"),
        ({"command": ["x", "--host=::"]}, "whole network in at ::"),
        ({"command": ["sh", "-c", "exec x --bind 10.0.0.7 --port 1"]}, "whole network in at 10.0.0.7"),
        ({"command": ["mistralrs-server", "--serve-ip", "0.0.0.0"]}, "whole network in at 0.0.0.0"),
        *(
            ({"command": [*before, *words]}, "writes whole prompts")
            for before in (["/opt/mistralrs", "serve"], ["env", "A=1", "mistralrs"], ["mistralrs-server"])
            for words in (["-l", "log.txt"], ["-llog.txt"], ["--log", "log.txt"], ["--log=log.txt"])
        ),
        ({"command": ["sh", "-c", "mistralrs serve -m m --log=log.txt"]}, "writes whole prompts"),
        ({"command": ["mistralrs", "from-config", "-f", "x.toml"]}, "not seen here"),
    ],
)
def test_commands_that_cannot_be_meant_are_refused(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_remotes([{"id": "far", "url": "http://127.0.0.1:1", **entry}])


@pytest.mark.parametrize(
    ("command", "whole"),
    [
        ("mistralrs serve -m X", "mistralrs serve --host 127.0.0.1 --port 7 --no-ui -m X"),
        ("nice /o/mistralrs serve -m X", "nice /o/mistralrs serve --host 127.0.0.1 --port 7 --no-ui -m X"),
        ("mistralrs serve --host ::1 -p9 --ui -m X", "mistralrs serve --host ::1 -p9 --ui -m X"),
        (
            "mistralrs --seed 1 serve -m X -a qwen3",
            "mistralrs --seed 1 serve --host 127.0.0.1 --port 7 --no-ui -m X -a qwen3",
        ),
        ("vllm-mlx serve X --port 7", "vllm-mlx serve --host 127.0.0.1 X --port 7"),
        ("mlx-omni-server --port=7", "mlx-omni-server --host 127.0.0.1 --port=7"),
        ("python -m mlx_lm server --model vllm-mlx", "python -m mlx_lm server --model vllm-mlx"),
        ("mistralrs doctor", "mistralrs doctor"),
        ("", ""),
    ],
)
def test_programs_that_would_let_the_network_in_are_told_to_listen_here(command: str, whole: str) -> None:
    assert completed(command.split(), 7) == tuple(whole.split())


def test_mistral_rs_is_started_with_its_architecture_left_to_it_and_its_health_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in, which says so. Its lines tell progress and are in the log."""
    held = tmp_path / "ready"
    monkeypatch.setenv("MISTRALRS_HELD", str(held))
    caplog.set_level("INFO")
    told: list[float] = []

    def report(done: float) -> None:
        told.append(done)
        if 0 < done < 1:
            held.touch()

    with started(tmp_path, install(tmp_path), "serve", "-m", "qwen3", profile="mistralrs", report=report) as asked:
        assert sorted(set(told)) == [0.0, 0.9, 1.0]
        words = json.loads(said(asked, "a"))["argv"]
        assert words[:4] == ["serve", "--host", "127.0.0.1", "--port"]
        assert words[5:] == ["--no-ui", "-m", "qwen3"]
        line = "far: INFO mistralrs: Server listening on http://127.0.0.1"
        wait_until(lambda: line in caplog.text, "its line in the log")
        assert asked.answer(ask("b")).usage.input_tokens == 9


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_mlx_lms_own_server_is_started_and_asked(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "mlx_lm", "server", "--model", str(AGENT_FULL), "--port", "PORT")
    with started(tmp_path, *command, profile="mlx-lm", model=str(AGENT_FULL)) as asked:
        assert "Hello" in said(asked, "a")
