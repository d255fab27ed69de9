"""A gateway process, echo workers beside it, and a plain HTTP client that sees every byte."""

from __future__ import annotations

import contextlib
import http.client
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import redis

from tests.support.processes import Running, free_port, running, wait_until
from tests.support.sealed import SECRET

TIMEOUT_S = 120.0
_numbers = itertools.count()


@dataclass(frozen=True)
class Reply:
    """A whole answer; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class EventSource:
    """A streamed answer, read event by event: (name, data) with "" for unnamed events and the text of comments."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        name, data = "", ""
        for raw in self._response:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                yield "comment", line[1:].strip()
            elif line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = line.removeprefix("data: ")
            elif not line and data:
                yield name, data
                name, data = "", ""

    def __enter__(self) -> EventSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Close the socket as a person who presses Esc does."""
        self._response.close()
        self._connection.close()


@dataclass
class Served:
    """A running gateway. `folder` holds its state and logs."""

    port: int
    redis_url: str
    folder: Path
    process: Running
    env: Mapping[str, str]
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request; `body` is sent as it is when it is bytes, else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            response = self._send(connection, method, path, body, headers)
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        return self.call("POST", path, body, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.call("GET", path, None, headers)

    def stream(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> EventSource:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        return EventSource(connection, self._send(connection, "POST", path, body, headers))

    def stream_of(self, path: str) -> EventSource:
        """As `stream`, of what is there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        return EventSource(connection, self._send(connection, "GET", path, None, None))

    @contextlib.contextmanager
    def connected(self, path: str, body: Any) -> Iterator[None]:
        """A request that was sent, and a client that is gone after the block, without having read anything."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", path, orjson.dumps(body), {"content-type": "application/json", **self.headers})
            yield
        finally:
            connection.close()

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str] | None,
    ) -> http.client.HTTPResponse:
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        sent = {"content-type": "application/json", **self.headers, **(headers or {})}
        connection.request(method, path, data, sent)
        return connection.getresponse()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url)

    def ready(self) -> list[str]:
        """The models that can answer."""
        return list(self.get("/ready").json["models"])

    @contextlib.contextmanager
    def worker(
        self,
        model: str = "echo",
        *,
        engine: str = "echo",
        host: str = "host",
        module: str = "worker",
        source: str = "",
        **options: object,
    ) -> Iterator[Running]:
        """A worker, ready, by default with the echo engine. `source` is the model's folder, where it has one. Options
        are those of the engine; upper-case ones go into its environment.

        Give workers of one gateway models of their own where tests must not see each other's jobs.
        """
        env = {**self.env, **{name: str(value) for name, value in options.items() if name.isupper()}}
        arguments = [f"--option={name}={value}" for name, value in options.items() if not name.isupper()]
        log = self.folder / f"worker{next(_numbers)}.log"
        arguments += ["--name", model] if source else []
        command = ("-m", module, "--model", source or model, "--engine", engine, "--host", host, *arguments)
        with running(*command, log=log, env=env) as process:
            wait_until(lambda: self._serves(model, process), f"{model} is ready")
            yield process

    def _serves(self, model: str, process: Running) -> bool:
        if process.process.poll() is not None:
            raise AssertionError(f"the worker ended:\n{process.output()}")
        return model in self.ready()


@contextlib.contextmanager
def served(
    redis_url: str, folder: Path, *, module: tuple[str, ...] = ("gateway",), **settings: object
) -> Iterator[Served]:
    """A gateway on this Redis; settings by their field names in `shared.config.Settings`. `module` is what is run, with
    its arguments."""
    port = free_port()
    env = {
        "REDIS_URL": redis_url,
        "MLX_GATEWAY_PORT": str(port),
        "MLX_GATEWAY_SECRET": SECRET,
        "MLX_GATEWAY_STATE_DIR": str(folder / "state"),
        **{f"MLX_GATEWAY_{name.upper()}": str(value) for name, value in settings.items()},
    }
    with running("-m", *module, log=folder / f"gateway{next(_numbers)}.log", env=env) as process:
        process.wait_for_line("running on http")
        yield Served(port, redis_url, folder, process, env)


def message(words: str, *, model: str = "echo", **fields: Any) -> dict[str, Any]:
    """A body that both dialects accept."""
    return {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": words}], **fields}
