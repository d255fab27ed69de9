"""Project processes for tests: started with their output captured, waited for by condition, always ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 40.0


def wait_until(condition: Callable[[], T], what: str, *, deadline_s: float = DEADLINE_S, every_s: float = 0.01) -> T:
    """The condition's first true value; fails the test, saying `what` was awaited, after `deadline_s`."""
    end_s = time.monotonic() + deadline_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(every_s)


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> set[int]:
    """Every process below this one."""
    listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listing.splitlines()]
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents if parent in level} - found
        found |= level
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A process under test; `output()` is everything it wrote to stdout and stderr so far."""

    def __init__(self, command: list[str], log: Path, *, env: Mapping[str, str | None], cwd: Path) -> None:
        self.log = log
        environment = {k: v for k, v in {**os.environ, **env}.items() if v is not None}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_line(self, pattern: str, *, deadline_s: float = DEADLINE_S) -> re.Match[str]:
        """The first match of `pattern` in the output; fails at once when the process ends without it."""

        def found() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            match = re.search(pattern, self.output(), re.MULTILINE)
            if match is None and ended:
                raise AssertionError(f"ended with {self.process.returncode} before {pattern!r}:\n{self.output()}")
            return match

        try:
            return wait_until(found, f"{pattern!r} in the output", deadline_s=deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """The exit status; fails the test, with the output, when it does not end in time."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {deadline_s} s:\n{self.output()}") from None

    def stop(self, deadline_s: float = DEADLINE_S) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait(deadline_s)


@contextmanager
def running(
    *arguments: str,
    log: Path,
    env: Mapping[str, str | None] | None = None,
    cwd: Path = REPOSITORY,
    python: str = sys.executable,
) -> Iterator[Running]:
    """`python *arguments` (e.g. "-m", "worker", …) until the block ends: then SIGTERM, and SIGKILL after a while.

    `env` is laid over this process's environment; None takes a variable away.
    """
    started = Running([python, *arguments], log, env=env or {}, cwd=cwd)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.signal(signal.SIGTERM)
            try:
                started.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                started.process.kill()
                started.process.wait()
