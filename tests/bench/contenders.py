"""The three that are compared, each in processes of its own, all answering the same groups of requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import redis.asyncio

from gateway.command.runfile import read_running
from gateway.dispatch.fleet import FleetWatcher
from shared.config import Settings, load_secret
from shared.processes import GuardedProcess
from shared.registry import WorkerLease
from shared.seal import Keyring
from tests.bench.prompts import Renderer, Request
from tests.bench.wire import Answer, Connection, chat
from tests.support.names import NAMES
from tests.support.processes import free_port

CAPACITY = 48  # requests that run at once in a worker: more than any part sends
_START_S = 120.0
_POLL_S = 0.05


class Contender(Protocol):
    """`answers` sends a group of requests, each `at_s` after the first, and returns when all are answered."""

    name: str

    async def start(self) -> None: ...

    async def answers(self, requests: Sequence[Request]) -> list[Answer]: ...

    async def stop(self) -> None: ...


def _offline() -> dict[str, str]:
    return dict(os.environ) | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def is_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:  # refused, cut off, or an HTTP status of failure
        return False


class HttpContender:
    """A server that speaks chat completions on `port` under the name `model`."""

    def __init__(self, name: str, model: str) -> None:
        self.name = name
        self.model = model
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="mlxgw-bench-"))
        self._process: GuardedProcess | None = None
        self._idle: list[Connection] = []

    async def answers(self, requests: Sequence[Request]) -> list[Answer]:
        return list(await asyncio.gather(*(self._answer(request) for request in requests)))

    async def _answer(self, request: Request) -> Answer:
        await asyncio.sleep(request.at_s)
        connection = self._idle.pop() if self._idle else Connection("127.0.0.1", self.port)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "temperature": 0.0,
        }
        if request.tools:
            body["tools"] = request.tools
        answer = await chat(connection, body)
        self._idle.append(connection)
        return answer

    def _launch(self, command: Sequence[str], **environment: str) -> None:
        with (self._folder / "log").open("wb") as log:
            self._process = GuardedProcess(command, env=_offline() | environment, output=log)

    def output(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def cpu_s(self) -> float:
        """Seconds of a processor that all of its processes have used so far."""
        assert self._process is not None
        root = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} did not start:\n{self.output()}")

    async def stop(self) -> None:
        for connection in self._idle:
            await connection.close()
        self._idle.clear()
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)


class Stack(HttpContender):
    """`mlx-gateway up`: Redis, gateway, host and worker as separate processes."""

    def __init__(
        self,
        model: Path,
        *,
        engine: str = "mlx",
        config: dict[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`config` is its models.json, `files` are other settings files by name."""
        super().__init__("this stack", "default" if config else model.name)
        self._files = dict(files or {})
        self._model = model
        self._engine = engine
        self._config = config
        self._environment = {"MLX_GATEWAY_CAPACITY": str(CAPACITY), **(environment or {})}

    async def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "gateway.command.cli",
            "up",
            "--port",
            "0",
            "--state",
            str(self._folder / "state"),
        ]
        if self._config is None:
            command += ["--model", str(self._model), "--engine", self._engine]
        else:
            folder = self._folder / "config"
            folder.mkdir()
            (folder / "models.json").write_text(json.dumps(self._config))
            for name, content in self._files.items():
                (folder / name).write_text(json.dumps(content))
            if self._config["models"]:
                self.model = self._config["models"][0]["id"]
            command += ["--config", str(folder)]
        self._launch(command, **self._environment)
        async with asyncio.timeout(_START_S):
            while (match := re.search(r"ready on http://[^:]+:(\d+)", self.output())) is None:
                self._check_alive()
                await asyncio.sleep(_POLL_S)
        self.port = int(match[1])

    def worker_logs(self) -> list[Path]:
        return sorted((self._folder / "state" / "logs").glob("worker-*.log"))

    async def ready_workers(self) -> list[int]:
        """Process ids of the workers that can answer."""
        return [lease.pid for lease in await self.leases() if lease.state == "ready"]

    async def leases(self) -> list[WorkerLease]:
        """Of its workers, as they are now; none before Redis is up."""
        running = read_running(self._folder / "state")
        if running is None:
            return []
        keyring = Keyring(load_secret(Settings(state_dir=self._folder / "state")))
        async with redis.asyncio.Redis.from_url(running.redis_url) as client:
            fleet = await FleetWatcher(client, NAMES, keyring).refresh()
        return list(fleet.workers)


class MlxServer(HttpContender):
    """`python -m mlx_lm server`, with its defaults."""

    def __init__(self, model: Path) -> None:
        super().__init__("mlx_lm server", str(model))
        self._model = model

    async def start(self) -> None:
        self.port = free_port()
        self._launch([sys.executable, "-m", "mlx_lm", "server", "--model", str(self._model), "--port", str(self.port)])
        async with asyncio.timeout(_START_S):
            while not await asyncio.to_thread(is_ok, f"http://127.0.0.1:{self.port}/health"):
                self._check_alive()
                await asyncio.sleep(_POLL_S)


class Bare:
    """`tests.bench.bare`: no HTTP, no rendering, no text; the time is the engine's alone."""

    name = "bare engine"

    def __init__(self, model: Path, renderer: Renderer, *, environment: Mapping[str, str] | None = None) -> None:
        self._model = model
        self._renderer = renderer
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.bare",
            str(self._model),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_offline() | self._environment,
            limit=2**26,
        )
        async with asyncio.timeout(_START_S):
            await self._read()

    async def answers(self, requests: Sequence[Request]) -> list[Answer]:
        prompts = [self._renderer.tokens(request) for request in requests]
        group = [
            {"tokens": tokens, "max_tokens": request.max_tokens, "at_s": request.at_s, "keep": request.conversation}
            for tokens, request in zip(prompts, requests, strict=True)
        ]
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(group).encode() + b"\n")
        await self._process.stdin.drain()
        results = await self._read()
        return [
            Answer(
                text=self._renderer.tokenizer.decode(result["tokens"]),
                first_s=result["times_s"][0],
                total_s=result["times_s"][-1],
                text_times_s=tuple(result["times_s"]),
                input_tokens=len(tokens),
                cached_tokens=result["cached_tokens"],
                output_tokens=len(result["tokens"]),
            )
            for result, tokens in zip(results, prompts, strict=True)
        ]

    async def _read(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the bare engine ended; run `python -m tests.bench.bare MODEL` to see why")
        return json.loads(line)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
        self._process = None
