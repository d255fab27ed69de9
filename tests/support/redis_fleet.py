"""Redis servers at TCP ports, and sentinels that watch over them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from shared.redis_server import find_redis
from tests.support.processes import free_port, wait_until

SERVICE = "fleet"
_DOWN_MS = 1000


@dataclass
class Server:
    """A process of redis-server at a port of this machine."""

    port: int
    process: subprocess.Popen[bytes]

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=2)

    def role(self) -> str:
        with self.client() as client, contextlib.suppress(redis.RedisError):
            return str(client.role()[0].decode())
        return ""

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def plain_redis(port: int, folder: Path, *arguments: str) -> Iterator[Server]:
    """Answering. Whatever becomes of it, it is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    fixed = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen([str(find_redis()), *arguments, *fixed], stdout=log, stderr=log)
    server = Server(port, process)
    try:
        wait_until(server.role, f"redis-server answers at {port}")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        server.kill()


@dataclass
class Watched:
    """Two servers, one of them the master, under three sentinels."""

    servers: list[Server]
    sentinels: list[Server] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{SERVICE}/0"

    def master(self) -> Server | None:
        """As the sentinels say."""
        for sentinel in self.sentinels:
            with sentinel.client() as client, contextlib.suppress(redis.RedisError):
                address = client.sentinel_get_master_addr_by_name(SERVICE)
                return next((each for each in self.servers if address and each.port == int(address[1])), None)
        return None

    def fail_over(self) -> float:
        """Kill the master; seconds until another is."""
        was, began_s = self.master(), time.monotonic()
        assert was is not None
        was.kill()
        wait_until(lambda: self.master() not in (None, was), "another is the master", deadline_s=30)
        return time.monotonic() - began_s


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Ready to fail over."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(plain_redis(free_port(), folder / "a"))
        second = stack.enter_context(plain_redis(free_port(), folder / "b", "--replicaof", f"127.0.0.1 {first.port}"))
        found = Watched([first, second])
        for number in range(3):
            place = folder / f"s{number}"
            place.mkdir()
            config = place / "sentinel.conf"
            config.write_text(
                f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} {_DOWN_MS}\n"
                f"sentinel failover-timeout {SERVICE} 5000\n"
            )
            found.sentinels.append(stack.enter_context(plain_redis(free_port(), place, str(config), "--sentinel")))
        wait_until(lambda: all(_sees_all(each) for each in found.sentinels), "the sentinels know all", deadline_s=30)
        yield found


def _sees_all(sentinel: Server) -> bool:
    with sentinel.client() as client:
        state = client.sentinel_master(SERVICE)
    return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2 and not state["is_sdown"])
