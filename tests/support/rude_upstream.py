"""A server that says whatever bytes a test wants, as no honest one would: to a request for an answer its script, to all
else a list with one model. What it does not prove: that these are all the ways to lie."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

Script = Callable[["Line"], None]
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def whole(body: bytes, kind: str = "application/json", status: str = "200 OK", **headers: str) -> bytes:
    """A response with its length."""
    fields = {"content-type": kind, "content-length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def models(*entries: Any) -> bytes:
    return whole(json.dumps({"object": "list", "data": list(entries)}).encode())


def event(data: Any) -> bytes:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return b"data: " + text + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


def end(reason: Any = "stop", **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **fields})


GOOD = SSE + delta(content="good") + end() + event(b"[DONE]")


class Line:
    """One connection, from the server's side. `is_over` is set when the test ends."""

    def __init__(self, connection: socket.socket, is_over: threading.Event) -> None:
        self._connection = connection
        self._is_over = is_over
        self.sent = 0

    def say(self, data: bytes) -> bool:
        """False when the other side is gone."""
        with suppress(OSError):
            self._connection.sendall(data)
            self.sent += len(data)
            return True
        return False

    def trickle(self, data: bytes, pause_s: float) -> None:
        """Again and again, until somebody has had enough."""
        while not self._is_over.wait(pause_s) and self.say(data):
            pass

    def flood(self, data: bytes, times: int) -> None:
        for _ in range(times):
            if not self.say(data):
                return

    def half_close(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)
        self._is_over.wait(20)

    def hold(self) -> None:
        """Open, and mute."""
        self._is_over.wait(20)


class RudeUpstream:
    """`listing` answers for lists and properties, `script` says an answer; both may be changed. `asked` holds the first
    lines, with the headers, of all requests."""

    def __init__(self, script: Script | bytes, listing: Mapping[str, bytes] | None = None) -> None:
        self.script = script
        self.listing = {"/v1/models": models({"id": "m"}), **(listing or {})}
        self.asked: list[str] = []
        self.is_over = threading.Event()

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head, _, rest = self._head(connection).partition(b"\r\n\r\n")
            self.asked.append(head.decode())
            method, path = head.decode().split(" ")[:2]
            length = next(
                (int(r[15:]) for r in head.decode().lower().split("\r\n") if r.startswith("content-length")), 0
            )
            while len(rest) < length:
                rest += connection.recv(65536)
            line = Line(connection, self.is_over)
            if method == "GET":
                line.say(self.listing.get(path.partition("?")[0], whole(b'{"detail": "Not Found"}', status="404 No")))
            elif isinstance(self.script, bytes):
                line.say(self.script)
            else:
                self.script(line)

    @staticmethod
    def _head(connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                raise ConnectionError
            data += part
        return data


@contextmanager
def serving_rudely(upstream: RudeUpstream) -> Iterator[str]:
    """Its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=upstream.serve, args=(connection,), daemon=True))
                threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            upstream.is_over.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)
            for thread in threads:
                thread.join(5)
