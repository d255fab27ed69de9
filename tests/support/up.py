"""`mlx-gateway up` under test, with a state folder and a temporary folder of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.command.runfile import read_running
from tests.support.processes import REPOSITORY, Running, descendants, is_running, running, wait_until

READY_S = 60.0
# Whatever this shell is set up for must not leak into the stack under test.
NO_SETTINGS: Mapping[str, str | None] = dict.fromkeys(
    ("REDIS_URL", "MLX_GATEWAY_API_KEY", "MLX_GATEWAY_CONFIG_DIR", "MLX_GATEWAY_DEFAULT_MODEL")
)


@dataclass(frozen=True, kw_only=True)
class Up:
    """`state` and `temporary` are its folders. `url` is empty until it is ready."""

    process: Running
    state: Path
    temporary: Path

    @property
    def url(self) -> str:
        found = read_running(self.state)
        return found.url if found else ""

    def wait_until_ready(self) -> str:
        return self.process.wait_for_line(r"^ready on (http://\S+)$", deadline_s=READY_S)[1]

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0) -> tuple[int, Any]:
        """Status and parsed JSON answer (text when it is none)."""
        connection = self.open(method, path, body, timeout_s=timeout_s)
        try:
            response = connection.getresponse()
            data = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(data)
        except json.JSONDecodeError:
            return response.status, data

    def open(self, method: str, path: str, body: Any, *, timeout_s: float = 30.0) -> http.client.HTTPConnection:
        """A connection with the request sent and the answer not read."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=timeout_s)
        encoded = None if body is None else json.dumps(body)
        connection.request(method, path, encoded, {"content-type": "application/json"})
        return connection

    def say(self, text: str, **fields: Any) -> tuple[int, Any]:
        """An Anthropic message, not streamed."""
        return self.request("POST", "/v1/messages", message(text, **fields))

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.signal(number)
        return self.process.wait()

    def leftovers(self, processes: set[int]) -> list[str]:
        """What is still there of `processes` and of files besides logs, secret and usage, after some patience."""

        def found() -> list[str]:
            names = [str(path) for path in self.temporary.rglob("*")]
            names += [str(path) for path in self.state.iterdir() if path.name not in ("logs", "secret", "usage.sqlite")]
            return names + [f"process {pid}" for pid in sorted(processes) if is_running(pid)]

        try:
            wait_until(lambda: not found(), "nothing is left")
        except AssertionError:
            return found()
        return []

    def processes(self) -> set[int]:
        return descendants(self.process.pid)


def message(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "current-model", "max_tokens": 50, "messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def up(folder: Path, *arguments: str, env: Mapping[str, str | None] | None = None, port: int = 0) -> Iterator[Up]:
    """`mlx-gateway up` until the block ends, with the echo engine unless `arguments` say otherwise."""
    state, temporary = folder / "state", folder / "t"
    temporary.mkdir(parents=True, exist_ok=True)
    engine = () if "--engine" in arguments else ("--engine", "echo")
    words = ("-m", "gateway.command.cli", "up", "--port", str(port), "--state", str(state), *engine, *arguments)
    environment = {**NO_SETTINGS, "TMPDIR": str(temporary), **(env or {})}
    with running(*words, log=folder / "up.log", env=environment) as process:
        yield Up(process=process, state=state, temporary=temporary)


def run_command(*arguments: str, env: Mapping[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
    """`mlx-gateway *arguments`, to its end."""
    environment = {k: v for k, v in {**os.environ, **NO_SETTINGS, **(env or {})}.items() if v is not None}
    return subprocess.run(
        [sys.executable, "-m", "gateway.command.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
        cwd=REPOSITORY,
    )
