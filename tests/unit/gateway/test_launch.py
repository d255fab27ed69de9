"""Programs in the foreground, and Claude Code's environment for a local model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.command.agents.base import ServedModels, Start
from gateway.command.agents.claude import REMOVED, build_claude_environment, output_tokens
from gateway.command.launch import run_agent
from shared.errors import ConfigError
from tests.support.processes import wait_until


def _build(context_tokens: int = 65536, key: str = "k", **tiers: str) -> dict[str, str]:
    models = ServedModels(main="qwen", context_tokens=context_tokens, tiers=tiers)
    return build_claude_environment(url="http://127.0.0.1:8080", key=key, models=models)


def test_every_model_name_it_may_ask_for_is_a_served_one() -> None:
    names = {name: value for name, value in _build(haiku="small").items() if name.endswith("_MODEL")}
    assert names == {
        "ANTHROPIC_MODEL": "anthropic/qwen",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "anthropic/qwen",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "anthropic/qwen",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "anthropic/small",
        "ANTHROPIC_DEFAULT_FABLE_MODEL": "anthropic/qwen",
        "CLAUDE_CODE_SUBAGENT_MODEL": "anthropic/qwen",
    }


def test_everything_that_is_recommended_is_set() -> None:
    assert (
        _build().items()
        >= {
            "ANTHROPIC_BASE_URL": "http://127.0.0.1:8080",
            "ANTHROPIC_AUTH_TOKEN": "k",
            "API_TIMEOUT_MS": "3000000",
            "API_FORCE_IDLE_TIMEOUT": "0",
            "CLAUDE_STREAM_IDLE_TIMEOUT_MS": "1800000",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off",
            "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "65536",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "16384",
        }.items()
    )


@pytest.mark.parametrize(
    ("context_tokens", "expected"),
    [(8192, 1024), (32768, 4096), (40960, 5120), (49152, 12152), (65536, 16384), (131072, 32000), (1048576, 32000)],
)
def test_the_output_limit_leaves_room_to_work_in(context_tokens: int, expected: int) -> None:
    assert output_tokens(context_tokens) == expected
    assert expected <= context_tokens / 4


def test_an_unknown_window_is_not_made_up() -> None:
    environment = _build(0)
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS" not in environment
    assert "CLAUDE_CODE_MAX_OUTPUT_TOKENS" not in environment


def test_without_a_key_it_still_gets_a_token_to_start_with() -> None:
    assert _build(key="")["ANTHROPIC_AUTH_TOKEN"] == "local"


def test_another_vendors_set_up_does_not_win() -> None:
    others = {"ANTHROPIC_API_KEY": "sk", "CLAUDE_CODE_USE_BEDROCK": "1", "ANTHROPIC_MODEL": "opus"}
    start = Start(environment=_build(), removed=REMOVED)
    environment = start.environment_in({**others, "PATH": "/bin", "CLAUDE_CODE_EFFORT_LEVEL": "low"})
    assert not {"ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK"} & set(environment)
    assert environment["PATH"] == "/bin"
    assert environment["CLAUDE_CODE_EFFORT_LEVEL"] == "low", "what a person set besides stays"
    assert environment["ANTHROPIC_MODEL"] == "anthropic/qwen"


def test_an_agents_exit_status_is_ours() -> None:
    assert run_agent(["sh", "-c", "exit 7"], {}) == 7
    assert run_agent(["sh", "-c", "kill -KILL $$"], {}) == 128 + signal.SIGKILL


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 4), (signal.SIGHUP, 5), (signal.SIGINT, 0)])
def test_signals_reach_the_agent_but_ctrl_c_is_not_sent_twice(tmp_path: Path, number: int, status: int) -> None:
    ready = tmp_path / "ready"
    agent = f"trap 'exit 4' TERM; trap 'exit 5' HUP; trap 'exit 6' INT; touch {ready}; sleep 0.5 & wait $!; exit 0"

    def press() -> None:
        wait_until(ready.exists, "the agent runs")
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    person = threading.Thread(target=press)
    person.start()
    assert run_agent(["sh", "-c", agent], {"PATH": os.environ["PATH"]}) == status
    person.join()
    assert signal.getsignal(number) is before


class _Pressed(tuple[str, ...]):
    """A command; a signal comes when its words are read, which is before it runs."""

    number = signal.SIGINT

    def __iter__(self) -> Iterator[str]:
        signal.raise_signal(self.number)
        return super().__iter__()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_before_the_agent_runs_reaches_it(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Pressed, "number", number)
    before = signal.signal(number, lambda *_: pytest.fail("nobody was there to take the signal"))
    try:
        assert run_agent(_Pressed(("sleep", "30")), {"PATH": os.environ["PATH"]}) == 128 + number
    finally:
        signal.signal(number, before)


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "claude").write_bytes(b"\x00")
    (tmp_path / "claude").chmod(0o755)
    with pytest.raises(ConfigError, match=r"claude cannot be run: Exec format error"):
        run_agent([str(tmp_path / "claude")], {})
