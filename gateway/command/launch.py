"""A program in the foreground, and a stack for as long as it runs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from gateway.command.ends import failed
from gateway.command.runfile import read_running
from shared.config import Settings, child_environment
from shared.errors import ConfigError
from shared.processes import GuardedProcess

_POLL_S = 0.1
_GRACE_S = 20.0


@contextlib.contextmanager
def started_stack(settings: Settings, up_arguments: Sequence[str]) -> Iterator[GuardedProcess]:
    """`mlx-gateway up` in the background until the block ends; it shows its progress on our stderr."""
    command = [sys.executable, "-P", "-m", "gateway.command.cli", "up", *up_arguments]
    up = GuardedProcess(command, env=child_environment(settings), output=2, grace_s=settings.drain_s + _GRACE_S)
    try:
        yield up
    finally:
        up.stop()


def wait_until_ready(up: GuardedProcess, settings: Settings) -> None:
    """Until a model answers and `up` has said its last word, for the terminal is the agent's then. Raises `ConfigError`
    when the stack ends instead; it has said why."""
    while (running := read_running(settings.state_dir)) is None or not running.is_ready:
        if up.poll() is not None:
            raise failed("`mlx-gateway up` ended")
        time.sleep(_POLL_S)


def run_agent(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program in the foreground. Ctrl-C is its business; other signals are passed on, and so is everything that
    comes before it runs. Its exit status, as a shell says it. Raises `ConfigError` when it cannot be run."""
    agent: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if agent is None:
            early.append(number)
        elif number != signal.SIGINT:  # the terminal sends Ctrl-C to the agent, too
            agent.send_signal(number)

    with _handling(pass_on, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        try:
            agent = subprocess.Popen(list(command), env=dict(environment))
        except OSError as error:
            raise ConfigError(f"{command[0]} cannot be run: {error.strerror}") from error
        for number in early:
            agent.send_signal(number)
        status = agent.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """With this handler for these signals. A program that is started does not inherit it, unlike SIG_IGN."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
