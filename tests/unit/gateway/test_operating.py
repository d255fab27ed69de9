"""The commands of whoever runs a stack: their words, their examples, how they end, what they show."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from gateway.command import logs, trace
from gateway.command.cli import _COMMANDS, build_parser, main
from gateway.command.completion import SHELLS, render_completion, words_of
from gateway.command.ends import (
    FAILED,
    NOT_RUNNING,
    NOT_THERE,
    UNUSABLE,
    exit_status,
    failed,
    not_running,
    not_there,
)
from gateway.command.operating import EXAMPLES
from gateway.command.processes import part_name
from shared.errors import BrokerUnavailableError, ConfigError, ModelNotFoundError, ModelUnavailableError


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(action.choices)


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_every_command_has_examples_that_the_parser_takes_and_shows_them(name: str) -> None:
    parser = build_parser()
    shown = subcommands()[name].format_help()
    assert EXAMPLES[name]
    for example in EXAMPLES[name]:
        assert f"  mlx-gateway {example}" in shown
        words = shlex.split(example.partition(" > ")[0])
        words = words[: words.index("--")] if "--" in words else words
        assert parser.parse_args(words).command == name


def test_every_command_is_done_by_somebody() -> None:
    assert set(_COMMANDS) == set(subcommands())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), UNUSABLE),
        (not_running("x"), NOT_RUNNING),
        (BrokerUnavailableError("x"), NOT_RUNNING),
        (not_there("x"), NOT_THERE),
        (failed("x"), FAILED),
        (ModelUnavailableError("x"), FAILED),
        (ModelNotFoundError("x"), NOT_THERE),
        (ConfigError("x", is_unreachable=True), NOT_RUNNING),
        (ConfigError("x", is_missing=True), NOT_THERE),
    ],
)
def test_each_kind_of_end_has_a_status_of_its_own(error: Exception, status: int) -> None:
    assert exit_status(error) == status  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [["stop"], ["ps"], ["status"], ["drain", "w"], ["share"]])
def test_what_needs_something_that_runs_says_that_nothing_does(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert main([*words, "--state", str(tmp_path)]) == NOT_RUNNING
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("words", [["logs"], ["logs", "nobody"], ["trace"], ["trace", "req_1"]])
def test_what_is_not_there_is_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--state", str(tmp_path)]) == NOT_THERE
    assert str(tmp_path) in capsys.readouterr().err


def test_settings_that_cannot_be_used_end_a_command_with_a_status_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_GATEWAY_PORT", "many")
    assert main(["status", "--state", str(tmp_path)]) == UNUSABLE


def test_config_check_tells_faults_and_misspellings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "check", "--config", str(tmp_path), "--state", str(tmp_path)]) == 0
    monkeypatch.setenv("MLX_GATEWAY_MAX_QEUE", "3")
    (tmp_path / "models.json").write_text("{")
    assert main(["config", "check", "--config", str(tmp_path), "--state", str(tmp_path)]) == FAILED
    said = capsys.readouterr().err
    assert "models.json" in said
    assert "MLX_GATEWAY_MAX_QUEUE" in said


def test_config_show_keeps_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_GATEWAY_API_KEY", "sesame-sesame")
    assert main(["config", "show", "--state", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "sesame" not in said
    assert "MLX_GATEWAY_API_KEY=(set)" in said
    assert "MLX_GATEWAY_PORT=8080" in said


# --- completion ------------------------------------------------------------------------------------------------------


def test_completion_knows_every_word_of_the_parser() -> None:
    words = words_of(build_parser())
    assert set(subcommands()) <= set(words[""])
    assert {"install", "uninstall", "--system"} <= set(words["service"])


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_its_own(shell: str) -> None:
    said = render_completion(build_parser(), shell)
    assert "mlx-gateway" in said
    assert "uninstall" in said


def test_bash_completes_a_command_and_what_follows_it(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(render_completion(build_parser(), "bash"))
    script = (
        f"source {tmp_path}/c; for words in 'tra' 'service unin' 'logs --fol'; do COMP_WORDS=(mlx-gateway $words); "
        'COMP_CWORD=$((${#COMP_WORDS[@]}-1)); COMPREPLY=(); _mlx_gateway; echo "${COMPREPLY[@]}"; done'
    )
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["trace", "uninstall", "--follow"]


# --- logs ------------------------------------------------------------------------------------------------------------


def _log(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_logs_shows_the_end_of_one_part_or_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _log(tmp_path, "gateway", "".join(f"line {n}\n" for n in range(9)))
    _log(tmp_path, "worker-qwen", "a worker's\n")
    assert main(["logs", "gateway", "-n", "2", "--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "line 7\nline 8\n"
    assert main(["logs", "qwen", "--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "a worker's\n"
    main(["logs", "-n", "1", "--state", str(tmp_path)])
    assert capsys.readouterr().out == "gateway: line 8\nworker-qwen: a worker's\n"


def test_following_goes_on_in_the_file_that_follows_one_set_aside(tmp_path: Path) -> None:
    path = _log(tmp_path, "gateway", "old\n")

    def writes(_: float) -> None:
        try:
            next(steps)
        except StopIteration:
            raise KeyboardInterrupt from None

    def write() -> Iterator[None]:
        path.write_text("old\nnew\nhal")
        yield
        path.write_text("old\nnew\nhalf\n")
        yield
        path.replace(path.with_name("gateway.log.1"))
        yield
        path.write_text("next\n")
        yield

    steps = write()
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(line for _, line in logs.following({"gateway": path}, wait=writes))
    assert seen == ["new", "half", "next"]


# --- traces ----------------------------------------------------------------------------------------------------------

TRACE = {
    "id": "req_1",
    "at_s": time.time(),
    "route": "messages",
    "outcome": "ok",
    "came": {"model": "claude", "messages": "s u", "stream": True},
    "canonical": {"model": "qwen", "messages": "s u"},
    "attempts": [
        {
            "number": 1,
            "worker": "mac.qwen.1",
            "reason": "only worker",
            "candidates": [
                {
                    "worker": "mac.qwen.1",
                    "wait_s": 0.0,
                    "prefill_s": 1.0,
                    "first_s": 1.0,
                    "prompt_tokens": 9,
                    "cached_tokens": 4,
                    "cached_in": "memory",
                }
            ],
        }
    ],
    "tokens": {"input": 9, "cached": 4, "output": 3},
    "seconds": {"first_token": 1.5, "total": 2.0},
    "answer": {"finish": "stop", "text": "secret words", "calls": ["Bash"], "text_characters": 12},
    "body": "secret body",
}


def _traced(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "trace-8080.jsonl").write_bytes(orjson.dumps(TRACE) + b"\n{cut off")


def test_a_trace_says_what_came_where_it_went_and_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _traced(tmp_path)
    assert main(["trace", "req_1", "--state", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for part in ("messages s u", "only worker", "4 of about 9 tokens cached", "first_token 1.5", "finish stop"):
        assert part in said


def test_what_was_said_is_shown_on_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _traced(tmp_path)
    for words in (["trace", "req_1"], ["trace", "--last", "--json"], ["trace"], ["trace", "--json"]):
        assert main([*words, "--state", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert "req_1" in said
        assert "secret" not in said
        assert "Bash" not in said
    main(["trace", "req_1", "--full", "--state", str(tmp_path)])
    said = capsys.readouterr().out
    assert "secret body" in said
    assert "secret words" in said


def test_following_tells_each_trace_as_it_is_written(tmp_path: Path) -> None:
    _traced(tmp_path)
    path = tmp_path / "logs" / "trace-8080.jsonl"

    def write(_: float) -> None:
        if path.read_bytes().endswith(b"3\n"):
            raise KeyboardInterrupt
        with path.open("ab") as file:
            file.write(b'\n{"id": "req_2"}\n3\n')

    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(told["id"] for told in trace.following(tmp_path, wait=write))
    assert seen == ["req_2"]


# --- processes and status --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "-P", "-m", "gateway", "--fd", "7"], "gateway"),
        (["python", "-P", "-m", "worker.host.host", "--engine", "mlx"], "host"),
        (["python", "-P", "-m", "worker", "--model", "x"], "worker"),
        (["python", "-I", "-S", "/x/shared/guard.py", "5", "--", "python", "-P", "-m", "gateway"], ""),
        (["/usr/bin/redis-server", "-"], "redis"),
        (["bash"], ""),
    ],
)
def test_processes_are_named_by_what_they_do(words: list[str], name: str) -> None:
    assert part_name(words) == name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_no_traceback(tmp_path: Path) -> None:
    script = "import sys; from gateway.command.entry import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "completion", "bash", "--state", str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert "No space left" in said.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"models": []}', '{"models": {"m.gguf": 4}}'])
def test_config_check_tells_of_gguf_settings_that_cannot_be_used(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gguf_config.json").write_text(text)
    assert main(["config", "check", "--config", str(tmp_path), "--state", str(tmp_path)]) == FAILED
    assert "gguf_config.json" in capsys.readouterr().err


def test_config_check_tells_of_two_models_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [{"id": "a", "source": "/x"}, {"id": "b", "source": "/x", "hosts": ["studio"]}]
    remotes = [{"id": "a", "url": "http://127.0.0.1:1"}, {"id": "b", "url": "http://127.0.0.1:1"}]
    (tmp_path / "models.json").write_bytes(orjson.dumps({"models": models}))
    (tmp_path / "remotes.json").write_bytes(orjson.dumps({"remotes": remotes}))
    assert main(["config", "check", "--config", str(tmp_path), "--state", str(tmp_path)]) == FAILED
    (told,) = capsys.readouterr().err.splitlines()
    assert "two models are called 'a'" in told


def test_who_never_joined_is_not_there_to_be_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert main(["revoke", "mac9", "--state", str(tmp_path)]) == NOT_THERE


def test_a_door_that_does_not_answer_is_told_by_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    words = ["join", "127.0.0.1:1", "ABCDE-FGHJK-MNPQR-STVWX", "--state", str(tmp_path)]
    assert main(words) == NOT_RUNNING
