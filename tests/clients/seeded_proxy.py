"""A proxy before a gateway that makes what a request names: the packages' own tests ask for `file_id`, `batch_id` and
the like of a server that makes everything up. Each such name becomes that of something which was just made.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.processes import wait_until

_LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}
_FORM = "multipart/form-data; boundary=b"


def _form(content: bytes) -> bytes:
    head = b'--b\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    return head % (b"purpose", b"", b"batch") + head % (b"file", b'; filename="f"', content) + b"--b--\r\n"


class _Maker:
    def __init__(self, port: int) -> None:
        self._port = port
        self._made: dict[str, Callable[[], str]] = {
            "completion_id": self._completion,
            "resp_677efb5139a88190b512bc3fef8e535d": self._response,
            "resp_123": self._response,
            "previous_response_id": self._response,
            "response_id": self._response,
            "input_file_id": lambda: self._file({}),
            "file_id": lambda: self._file({}),
            "message_batch_id": self._message_batch,
            "batch_id": self._batch,
        }
        self._lasting: dict[str, Callable[[], str]] = {  # for what is to be cancelled: what has ended cannot be
            "message_batch_id": lambda: self._message_batch(words="echo:hang"),
            "batch_id": lambda: self._batch(words="echo:hang"),
        }
        self._find = re.compile("|".join(rf'(?<![\w-]){name}(?![\w-]|":)' for name in self._made))

    def replaced(self, text: str, headers: dict[str, str]) -> str:
        def make(found: re.Match[str]) -> str:
            if found[0] == "file_id":
                return self._file(headers)
            if found[0] in self._lasting and text.partition("?")[0].endswith("/cancel"):
                return self._lasting[found[0]]()
            return self._made[found[0]]()

        return self._find.sub(make, text)

    def _get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> str:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("POST", path, sent, {"content-type": "application/json", **(headers or {})})
            return str(json.loads(connection.getresponse().read())["id"])
        finally:
            connection.close()

    def _completion(self) -> str:
        return self._post("/v1/chat/completions", {**_LINE["body"], "store": True, "metadata": {"a": "b"}})  # type: ignore[dict-item]

    def _response(self) -> str:
        return self._post("/v1/responses", {"model": "m", "input": "hi"})

    def _file(self, headers: dict[str, str], *, words: str = "hi") -> str:
        version = {name: value for name, value in headers.items() if name == "anthropic-version"}
        line = {**_LINE, "body": {"model": "m", "messages": [{"role": "user", "content": words}]}}
        return self._post("/v1/files", _form(json.dumps(line).encode()), {"content-type": _FORM, **version})

    def _batch(self, *, words: str = "hi") -> str:
        asked = {
            "input_file_id": self._file({}, words=words),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        return self._post("/v1/batches", asked)

    def _message_batch(self, *, words: str = "hi") -> str:
        """One that has ended, so that it has results and can be deleted, unless it is to hang."""
        asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": words}]}
        made = self._post("/v1/messages/batches", {"requests": [{"custom_id": "a", "params": asked}]})
        if words == "hi":
            wait_until(lambda: self._get(f"/v1/messages/batches/{made}")["ended_at"], "the batch has ended")
        return made


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    maker: _Maker
    port: int

    def _pass_on(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        if headers.get("content-type", "").startswith("application/json"):
            body = self.maker.replaced(body.decode(), headers).encode()
        path = self.maker.replaced(self.path, headers)
        passed = {name: value for name, value in headers.items() if name not in ("content-length", "connection")}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(self.command, path, body or None, passed)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_HEAD = _pass_on

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: pytest shows what fails."""


@contextlib.contextmanager
def seeded(port: int) -> Iterator[int]:
    """The port of a proxy before the gateway at `port`."""
    handler = type("Handler", (_Handler,), {"maker": _Maker(port), "port": port})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
