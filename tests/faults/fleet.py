"""Two gateways and two hosts, each with a network of its own to one Redis, and everything that can befall them.

Every host serves two models: `paced`, the echo engine at the pace of a small Mac, and `said`, a real MLX model that
says given texts (`tests.models.scripted_checkpoint`): reasoning, calls and JSON. (A fleet for real clients has `quick`
alone, which computes long prompts at once.) The faults are done to real processes
and to what they send; a frozen cable stands for a partition, and a killed Mac is one whose processes are killed at once
behind a cable that was pulled before.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import redis

from shared.redis_server import RedisServer
from shared.registry import WorkerLease
from tests.faults.texts import build_said
from tests.support.chaos import ChaosProxy
from tests.support.names import NAMES
from tests.support.processes import Running, descendants, free_port, running, wait_until
from tests.support.sealed import SECRET, open_lease

PACED, SAID, QUICK = "paced", "said", "quick"
MODELS = (PACED, SAID)
READY_S = 90.0
_QUICK_PACE = {"step_ms": 25, "context_tokens": 200_000}  # whose prompts are long
_PACE = {"step_ms": 25, "prefill_tokens_per_s": 400, "cache_tokens": 1_000_000}
_SETTINGS = {
    "MLX_GATEWAY_STREAM_GRACE_S": "0.1",
    "MLX_GATEWAY_KEEPALIVE_S": "1",
    "MLX_GATEWAY_SSD_CACHE_BYTES": "-1",
    "MLX_GATEWAY_CACHE_BYTES": str(256 << 20),
    "MLX_CACHE_MIN_REUSE": "16",
}


@dataclass
class Node:
    """A process of ours behind a proxy of its own. `process` is replaced when it is started again."""

    name: str
    proxy: ChaosProxy
    command: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path
    port: int = 0
    process: Running | None = None
    starts: int = 0
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        self.starts += 1
        log = self.folder / f"{self.name}-{self.starts}.log"
        self.process = self._stack.enter_context(running(*self.command, log=log, env=self.env))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def is_running(self) -> bool:
        return self.process is not None and self.process.process.poll() is None

    def kill_all(self) -> None:
        """This process and all below it, at once."""
        for pid in (self.pid, *descendants(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def close(self) -> None:
        self._stack.close()

    def outputs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"{self.name}-*.log")))


class Fleet:
    """See the module's text. Made by `fleet`."""

    def __init__(
        self, server: RedisServer, folder: Path, gateways: list[Node], hosts: list[Node], models: tuple[str, ...]
    ) -> None:
        self.server = server
        self.models = models
        self.folder = folder
        self.gateways = gateways
        self.hosts = hosts
        self.client = redis.Redis.from_url(server.url)

    @property
    def nodes(self) -> list[Node]:
        return [*self.gateways, *self.hosts]

    def leases(self, model: str = "") -> list[WorkerLease]:
        """Of all workers that are alive."""
        names = [name.decode() for name in self.client.smembers(NAMES.workers)]  # type: ignore[union-attr]
        found = [(name, self.client.get(NAMES.lease(name))) for name in names]
        leases = [open_lease(name, data) for name, data in found if isinstance(data, bytes)]
        return [lease for lease in leases if model in ("", lease.model)]

    def lease(self, worker: str) -> WorkerLease:
        return next(lease for lease in self.leases() if lease.worker == worker)

    def host_of(self, worker: str) -> Node:
        return next(node for node in self.hosts if node.name == worker.partition(".")[0])

    def get(self, node: Node, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """Status and body; 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def figure(self, node: Node, name: str) -> float:
        """The sum of a metric's rows."""
        lines = self.get(node, "/metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def ready_workers(self, node: Node, model: str) -> int:
        """How many a gateway sees."""
        lines = self.get(node, "/metrics/hosts")[1].decode().splitlines()
        return sum(line.startswith("wk_state{") and f'model="{model}",state="ready"}} 1.0' in line for line in lines)

    def is_whole(self) -> bool:
        """Everybody is there, is seen by everybody, and has nothing to do."""
        if not all(node.is_running() for node in self.nodes):
            return False
        try:
            leases = self.leases()
        except redis.RedisError:
            return False
        if sorted(lease.model for lease in leases) != sorted(self.models * len(self.hosts)):
            return False
        if any(lease.state != "ready" or lease.in_flight for lease in leases):
            return False
        seen = all(
            self.ready_workers(node, model) == len(self.hosts) for node in self.gateways for model in self.models
        )
        return seen and all(self.figure(node, "gw_inflight") == 0 for node in self.gateways)

    def heal(self) -> None:
        """Undo every fault; wait until all is well."""
        for node in self.nodes:
            node.proxy.delay(0)
            node.proxy.thaw()
        for node in self.nodes:
            if not node.is_running():
                node.start()
        wait_until(self.is_whole, "everybody is back", deadline_s=READY_S, every_s=0.1)

    def renew_hosts(self) -> None:
        """All of them started anew: a host gives a model up whose worker has died too often within a minute."""
        before = {lease.worker for lease in self.leases()}
        for node in self.hosts:
            node.kill_all()
        wait_until(lambda: not before & {lease.worker for lease in self.leases()}, "their leases end")
        self.heal()

    def close(self) -> None:
        self.client.close()


@contextlib.contextmanager
def fleet(folder: Path, *, hosts: int = 2, models: tuple[str, ...] = MODELS) -> Iterator[Fleet]:
    """Started and whole. `folder` gets everything that it writes."""
    config = folder / "config"
    config.mkdir(parents=True)
    listed: dict[str, Any] = {
        PACED: {"id": PACED, "source": PACED, "engine": "echo", "options": _PACE},
        QUICK: {"id": QUICK, "source": QUICK, "engine": "echo", "options": _QUICK_PACE},
        SAID: {"id": SAID, "source": str(folder / SAID), "engine": "mlx"},
    }
    if SAID in models:
        build_said(folder / SAID)
    (config / "models.json").write_bytes(orjson.dumps({"models": [listed[model] for model in models]}))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        gateways = [_node(stack, server, folder, f"gateway{n}", ("-m", "gateway"), config) for n in range(2)]
        commands = [("-m", "worker.host.host", "--name", f"mac{n}") for n in range(hosts)]
        macs = [_node(stack, server, folder, f"mac{n}", command, config) for n, command in enumerate(commands)]
        found = Fleet(server, folder, gateways, macs, models)
        stack.callback(found.close)
        for node in found.nodes:
            stack.callback(node.close)
            node.start()
        found.heal()
        yield found


def _node(
    stack: contextlib.ExitStack, server: RedisServer, folder: Path, name: str, command: tuple[str, ...], config: Path
) -> Node:
    path = server.folder / f"{name}.sock"
    proxy = stack.enter_context(ChaosProxy(path, server.folder / "r.sock"))
    port = free_port()
    env = {
        **_SETTINGS,
        "REDIS_URL": server.url.replace(str(server.folder / "r.sock"), str(path)),
        "MLX_GATEWAY_PORT": str(port),
        "MLX_GATEWAY_SECRET": SECRET,
        "MLX_GATEWAY_CONFIG_DIR": str(config),
        "MLX_GATEWAY_STATE_DIR": str(folder / name),
    }
    return Node(name, proxy, command, env, folder, port)
