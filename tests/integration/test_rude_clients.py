"""Clients that do not read, half-close, send a byte a second, or come and go by the hundred: their gateway's memory
stays bounded, and others get their tokens."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.queues import running_jobs
from tests.support.served import EventSource, Served, message, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
_PATH = "/v1/messages"
_WORDS = 200
_MOST_GROWTH_MB = 96  # 64 on a busy machine, where more is on its way at a time


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("rude")
    with RedisServer() as server, served(server.url, folder, stream_grace_s=0.1, keepalive_s=1) as gateway:
        with gateway.worker("echo", step_ms=10), gateway.worker("gush"):
            gateway.post(_PATH, message("echo:words 5"))
            yield gateway


def _resident_mb(gateway: Served) -> int:
    pages = int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _clients(gateway: Served) -> int:
    """Connections of clients that the gateway holds."""
    held = psutil.Process(gateway.process.pid).net_connections("tcp")
    return sum(each.laddr.port == gateway.port and bool(each.raddr) for each in held)


def _head(body: bytes, *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return (
        f"POST {_PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    ).encode()


def _connect(gateway: Served, *, receive_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(20)
    client.connect(("127.0.0.1", gateway.port))
    return client


def _body(words: str, model: str = "echo") -> bytes:
    return json.dumps(message(words, model=model, stream=True, max_tokens=1_000_000)).encode()


@contextmanager
def _another_reads_on(gateway: Served) -> Iterator[None]:
    """A stream beside what the block does gets all of its tokens."""
    with gateway.stream(_PATH, message(f"echo:words {_WORDS}", stream=True)) as source:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(_read, source)
            yield
            assert reading.result(60) == " ".join(f"word{number}" for number in range(_WORDS))


def _read(source: EventSource) -> str:
    return "".join(json.loads(data)["delta"]["text"] for name, data in source if name == "content_block_delta")


def _wait_idle(gateway: Served) -> None:
    with gateway.client() as client:
        wait_until(
            lambda: not running_jobs(client, "echo") and not running_jobs(client, "gush"),
            "all work has ended",
            deadline_s=30,
        )


def test_clients_that_do_not_read_cost_the_text_of_their_answers(gateway: Served) -> None:
    before_mb = _resident_mb(gateway)
    words = 20_000  # 180 KB of text each, two megabytes as events
    with ExitStack() as stack:
        with _another_reads_on(gateway):
            for _ in range(8):
                client = stack.enter_context(_connect(gateway, receive_bytes=4096))
                body = _body(f"echo:words {words}", "gush")
                client.sendall(_head(body) + body)
        _wait_idle(gateway)  # the worker is done with them, whoever reads
        assert _resident_mb(gateway) - before_mb < _MOST_GROWTH_MB
        with gateway.client() as broker:
            assert not running_jobs(broker, "gush")


def test_who_sends_a_byte_a_second_holds_up_nobody(gateway: Served) -> None:
    body = _body("echo:words 3")
    stop = threading.Event()

    def drip(client: socket.socket, data: bytes) -> None:
        for number in range(len(data)):
            if stop.wait(1.0):
                return
            client.sendall(data[number : number + 1])

    with ExitStack() as stack:
        slow = [stack.enter_context(_connect(gateway)) for _ in range(20)]
        slow_bodies = [stack.enter_context(_connect(gateway)) for _ in range(20)]
        for client in slow_bodies:
            client.sendall(_head(body))
        parts = [(client, _head(body)) for client in slow] + [(client, body) for client in slow_bodies]
        threads = [threading.Thread(target=drip, args=part, daemon=True) for part in parts]
        try:
            for thread in threads:
                thread.start()
            with _another_reads_on(gateway):
                assert gateway.post(_PATH, message("echo:words 3")).status == 200
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    _wait_idle(gateway)


def test_who_half_closes_counts_as_gone_and_their_work_ends(gateway: Served) -> None:
    """As the documentation says: the server below does not tell one from the other."""
    with _another_reads_on(gateway), _connect(gateway) as client:
        body = _body("echo:words 100000")
        client.sendall(_head(body) + body)
        assert b"200 OK" in client.recv(1 << 16)
        client.shutdown(socket.SHUT_WR)
        with gateway.client() as broker:
            wait_until(lambda: len(running_jobs(broker, "echo")) <= 1, "its work ends", deadline_s=30)
    _wait_idle(gateway)


def test_a_thousand_connections_that_come_and_go_leave_nothing(gateway: Served) -> None:
    """Dropped before a byte, in the head, in the body, and with their answer under way."""
    gateway.post(_PATH, message("echo:words 3"))
    before_mb = _resident_mb(gateway)
    body = _body("echo:words 50")
    whole = _head(body) + body
    cuts = (0, 30, len(whole) - 20, len(whole))

    def drop(number: int) -> None:
        with _connect(gateway) as client:
            client.sendall(whole[: cuts[number % len(cuts)]])
            if number % 8 == 7:
                time.sleep(0.01)

    with _another_reads_on(gateway), ThreadPoolExecutor(16) as pool:
        list(pool.map(drop, range(1000)))
    _wait_idle(gateway)
    wait_until(lambda: _clients(gateway) == 0, "their sockets are closed", deadline_s=40)
    assert _resident_mb(gateway) - before_mb < _MOST_GROWTH_MB
    assert gateway.post(_PATH, message("echo:words 3")).status == 200
