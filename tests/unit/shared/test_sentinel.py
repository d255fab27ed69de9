"""Redis behind Sentinel: who is asked for the master, and what is made of a URL. (Real sentinels and a fail-over:
tests/integration/test_sentinel.py.)"""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from shared.config import Settings
from shared.connections import build_async_redis, build_redis
from shared.errors import ConfigError
from shared.masters import connection_arguments
from shared.sentinel import first_address
from tests.support.processes import free_port
from tests.support.redis_fleet import plain_redis


class _Sentinel(socketserver.ThreadingTCPServer):
    """Answers `SENTINEL GET-MASTER-ADDR-BY-NAME` with what it is told to, and everything else with OK."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.master: tuple[str, int] | None = None
        self.services: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Sentinel)
        while line := self.rfile.readline():
            words = [self._word() for _ in range(int(line[1:]))]
            if words[0].upper() == "SENTINEL":
                self.server.services.append(words[-1])
                self.wfile.write(_encoded(self.server.master))
            elif words[0].upper() == "HELLO":
                self.wfile.write(b"-ERR unknown command\r\n")
            else:
                self.wfile.write(b"+OK\r\n")

    def _word(self) -> str:
        size = int(self.rfile.readline()[1:])
        word = self.rfile.read(size + 2)[:-2].decode()
        return word


def _encoded(address: tuple[str, int] | None) -> bytes:
    if address is None:
        return b"*-1\r\n"
    host, port = address[0].encode(), str(address[1]).encode()
    return b"*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(host), host, len(port), port)


@contextmanager
def _sentinel() -> Iterator[_Sentinel]:
    with _Sentinel() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def named() -> Iterator[_Sentinel]:
    with _sentinel() as server:
        yield server


@pytest.fixture
def tcp_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server at a TCP port: sentinels know no sockets."""
    port = free_port()
    with plain_redis(port, tmp_path_factory.mktemp("redis")):
        yield port


def test_each_connection_asks_who_the_master_is(named: _Sentinel, tcp_redis: int) -> None:
    named.master = ("127.0.0.1", tcp_redis)
    dead = f"127.0.0.1:{free_port()}"
    settings = Settings(redis_url=f"redis+sentinel://{dead},{named.address}/fleet/3")
    with build_redis(settings) as client:
        assert client.ping()
        assert client.connection_pool.connection_kwargs["db"] == 3
        client.connection_pool.disconnect()
        named.master = ("127.0.0.1", free_port())
        with pytest.raises(redis.ConnectionError):
            client.ping()
        named.master = ("127.0.0.1", tcp_redis)
        assert client.ping()
    assert set(named.services) == {"fleet"}
    assert len(named.services) >= 3


def test_an_asyncio_client_asks_too(named: _Sentinel, tcp_redis: int) -> None:
    named.master = ("127.0.0.1", tcp_redis)

    async def ask() -> bool:
        async with build_async_redis(Settings(redis_url=f"redis+sentinel://{named.address}/fleet")) as client:
            return bool(await client.ping())

    assert asyncio.run(ask())


def test_a_service_that_no_sentinel_knows_is_said(named: _Sentinel) -> None:
    with build_redis(Settings(redis_url=f"redis+sentinel://{named.address}/other")) as client:
        with pytest.raises(redis.ConnectionError, match="knows the master of other"):
            client.ping()


def test_a_server_that_became_a_replica_is_left(named: _Sentinel, tcp_redis: int) -> None:
    named.master = ("127.0.0.1", tcp_redis)
    with (
        redis.Redis(port=tcp_redis) as direct,
        build_redis(Settings(redis_url=f"redis+sentinel://{named.address}/fleet")) as client,
    ):
        client.set("a", 1)
        direct.replicaof("127.0.0.1", free_port())
        with pytest.raises(redis.ConnectionError, match="not the master any more"):
            client.set("a", 2)
        direct.replicaof("NO", "ONE")
        assert client.set("a", 3)


@pytest.mark.parametrize("url", ["redis+sentinel://a:1,b:2", "redis+sentinel:///fleet", "redis+sentinel://a:x/fleet"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL cannot be used"):
        build_redis(Settings(redis_url=url))


def test_what_stands_in_a_url() -> None:
    found = connection_arguments("rediss+sentinel://me:s%40@a,[::1]:7/fleet/2?sentinel_password=p&ssl_cert_reqs=none")
    sentinels = found["sentinels"]
    assert sentinels.addresses == (("a", 26379), ("::1", 7))
    assert sentinels.options == {"password": "p", "ssl": True, "ssl_cert_reqs": "none"}
    assert (found["username"], found["password"], found["db"]) == ("me", "s@", 2)
    assert found["connection_class"].__name__ == "MasterSSLConnection"
    assert first_address("redis+sentinel://u:p@a:1,b:2/fleet") == ("a", 1)
