"""Cuts texts to tokens by asking the server, from any thread."""

from __future__ import annotations

import http.client
import json
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

from shared.errors import InternalError, WorkerLostError
from worker.engines.gguf.server import LlamaServer

_TIMEOUT_S = 60.0
_TRIES = 3


class ServerCut:
    """Keeps its connections open, as many as threads ask at once. A server that was started again has the same model,
    so that a text is cut the same."""

    def __init__(self, server: LlamaServer) -> None:
        self._server = server
        self._free: deque[tuple[str, http.client.HTTPConnection]] = deque()

    def __call__(self, text: str, add_special: bool) -> Sequence[int]:
        """Raises `WorkerLostError` where the server does not come back."""
        body = json.dumps({"content": text, "add_special": add_special, "parse_special": True}).encode()
        tries = 0
        while tries < _TRIES:
            self._server.wait_here()
            address, connection, is_new = self._take()
            try:
                tokens = self._ask(connection, body)
            except (OSError, http.client.HTTPException):
                connection.close()
                tries += is_new  # the server closes connections that were open for long
                continue
            except BaseException:
                connection.close()
                raise
            self._free.append((address, connection))
            return tokens
        raise WorkerLostError("llama.cpp's server does not answer")

    def close(self) -> None:
        while self._free:
            self._free.pop()[1].close()

    def _take(self) -> tuple[str, http.client.HTTPConnection, bool]:
        """(the server's address, a connection to it, whether it is a new one)."""
        address = urlsplit(self._server.address.url).netloc
        while self._free:
            try:
                old, connection = self._free.pop()
            except IndexError:  # another thread was quicker
                break
            if old == address:
                return old, connection, False
            connection.close()
        return address, http.client.HTTPConnection(address, timeout=_TIMEOUT_S), True

    def _ask(self, connection: http.client.HTTPConnection, body: bytes) -> Sequence[int]:
        headers = {"Content-Type": "application/json", **self._server.address.headers}
        connection.request("POST", "/tokenize", body, headers)
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise InternalError(
                f"llama.cpp's server cannot cut a text to tokens: {data[:200].decode(errors='replace')}"
            )
        return list(json.loads(data)["tokens"])
