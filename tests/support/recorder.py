"""A proxy on loopback between a real client and the gateway, which keeps what passed: in memory, never in a file."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.support.processes import wait_until

TIMEOUT_S = 1200.0
_CHUNK_BYTES = 65536
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


@dataclass
class Exchange:
    """One request and its answer. `events` are the stream's, (name, data); `answer` is a body that was no stream.

    `status` is 0 until the answer's head came; `is_over` once its last byte was passed on or a side left.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    started_s: float
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: Any = None
    events: list[tuple[str, Any]] = field(default_factory=list)
    ended_s: float = 0.0
    is_over: bool = False
    was_left: bool = False

    @property
    def usage(self) -> dict[str, Any]:
        """The final one."""
        if isinstance(self.answer, dict):
            return dict(self.answer.get("usage") or {})
        found = [data["usage"] for name, data in self.events if name == "message_delta" and "usage" in data]
        return dict(found[-1]) if found else {}

    @property
    def opening_usage(self) -> dict[str, Any]:
        """The first one of a stream, which is there even when the client leaves."""
        found = [data["message"]["usage"] for name, data in self.events if name == "message_start"]
        return dict(found[0]) if found else {}

    @property
    def computed_tokens(self) -> int:
        """Also what was computed to be kept, which this API counts apart where a client asks for a cache."""
        return int(self.usage.get("input_tokens", 0)) + int(self.usage.get("cache_creation_input_tokens", 0))

    @property
    def cached_tokens(self) -> int:
        return int(self.usage.get("cache_read_input_tokens", 0))

    @property
    def prompt_tokens(self) -> int:
        return self.computed_tokens + self.cached_tokens

    @property
    def output_tokens(self) -> int:
        return int(self.usage.get("output_tokens", 0))

    @property
    def stop_reason(self) -> str:
        if isinstance(self.answer, dict):
            return str(self.answer.get("stop_reason"))
        reasons = [data["delta"].get("stop_reason") for name, data in self.events if name == "message_delta"]
        return str(reasons[-1]) if reasons else ""

    @property
    def called(self) -> list[str]:
        """Names of the tools that the answer calls."""
        blocks = [data["content_block"] for name, data in self.events if name == "content_block_start"]
        if isinstance(self.answer, dict):
            blocks = self.answer.get("content", [])
        return [block["name"] for block in blocks if block["type"] == "tool_use"]

    @property
    def error(self) -> str:
        """The message of an error answer or error event."""
        found = [data for name, data in self.events if name == "error"]
        if self.status >= 400 and isinstance(self.answer, dict):
            found.append(self.answer)
        return str(found[0]["error"]["message"]) if found else ""

    @property
    def is_message(self) -> bool:
        return self.method == "POST" and urlsplit(self.path).path == "/v1/messages"

    @property
    def agent(self) -> str:
        """The subagent that asked; empty for the main conversation."""
        return self.headers.get("x-claude-code-agent-id", "")


def describe(exchanges: Iterable[Exchange]) -> str:
    """A table for a person: sizes of every request for an answer, nothing of its content."""
    lines = [f"{'model':<24}{'who':<9}{'prompt':>8}{'computed':>10}{'cached':>8}{'output':>8}  end"]
    for exchange in exchanges:
        if not exchange.is_message:
            continue
        who = "subagent" if exchange.agent else "main"
        end = exchange.error or " ".join([exchange.stop_reason, *exchange.called])
        lines.append(
            f"{exchange.body['model']:<24}{who:<9}{exchange.prompt_tokens:>8}{exchange.computed_tokens:>10}"
            f"{exchange.cached_tokens:>8}{exchange.output_tokens:>8}  {end}"
        )
    return "\n".join(lines)


class Recorder:
    """`url` is what the client gets instead of the gateway's."""

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        self.upstream = (str(address.hostname), int(address.port or 80))
        self.exchanges: list[Exchange] = []
        self._lock = threading.Lock()
        recorder = self

        class Handler(_Handler):
            owner = recorder

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def begin(self, exchange: Exchange) -> None:
        with self._lock:
            self.exchanges.append(exchange)

    def say_again(self, exchange: Exchange, *, path: str = "", **changes: Any) -> Exchange:
        """The same request once more, its body's fields changed; the exchange of it, over."""
        with self.recorded() as again:
            connection = http.client.HTTPConnection(*self._server.server_address[:2], timeout=TIMEOUT_S)
            body = json.dumps(exchange.body | changes)
            headers = {k: v for k, v in exchange.headers.items() if k not in _HOP_HEADERS and k != "host"}
            connection.request(exchange.method, path or exchange.path, body, headers)
            connection.getresponse().read()
            connection.close()
        return again[0]

    def messages(self) -> list[Exchange]:
        """The requests for answers, in the order in which they came."""
        with self._lock:
            return [exchange for exchange in self.exchanges if exchange.is_message]

    @contextlib.contextmanager
    def recorded(self) -> Iterator[list[Exchange]]:
        """The exchanges of the block, all ended when it has ended."""
        with self._lock:
            before = len(self.exchanges)
        found: list[Exchange] = []
        yield found
        wait_until(lambda: all(exchange.is_over for exchange in self.exchanges), "every answer has ended")
        with self._lock:
            found.extend(self.exchanges[before:])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Recorder

    def do_GET(self) -> None:
        self._relay()

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are kept, not printed."""

    def _relay(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        exchange = Exchange(self.command, self.path, headers, _parsed(data), time.monotonic())
        self.owner.begin(exchange)
        connection = http.client.HTTPConnection(*self.owner.upstream, timeout=TIMEOUT_S)
        try:
            passed_on = {k: v for k, v in headers.items() if k not in _HOP_HEADERS and k != "host"}
            connection.request(self.command, self.path, data if self.command == "POST" else None, passed_on)
            self._answer(connection.getresponse(), exchange)
        except OSError:
            exchange.was_left = True
            self.close_connection = True
        finally:
            connection.close()
            exchange.ended_s = time.monotonic()
            exchange.is_over = True

    def _answer(self, response: http.client.HTTPResponse, exchange: Exchange) -> None:
        exchange.answer_headers = {name.lower(): value for name, value in response.getheaders()}
        exchange.status = response.status
        self.send_response(response.status)
        for name, value in exchange.answer_headers.items():
            if name not in _HOP_HEADERS:
                self.send_header(name, value)
        if "event-stream" in exchange.answer_headers.get("content-type", ""):
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self._stream(response, exchange)
            return
        data = response.read()
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        exchange.answer = _parsed(data)

    def _stream(self, response: http.client.HTTPResponse, exchange: Exchange) -> None:
        pending = b""
        while data := response.read1(_CHUNK_BYTES):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.flush()
            *events, pending = (pending + data).split(b"\n\n")
            exchange.events += [_parse_event(event.decode()) for event in events]
        self.wfile.write(b"0\r\n\r\n")


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data) if data else None
    except ValueError:
        return data.decode(errors="replace")


def _parse_event(text: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    data = fields.get("data", "null")
    return fields.get("event", ""), None if data == "[DONE]" else json.loads(data)
