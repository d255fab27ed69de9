"""A stand-in for the Hugging Face hub, made from what its own package asks of it. What it does not prove: that the hub
still answers so.

It finds repositories by words, lists a repository's files with their sizes, and gives them by name, in parts where it
is asked for parts.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

COMMIT = "a" * 40
_FROM = re.compile(r"bytes=(\d+)-")


class HubStandIn:
    """`asked` holds (method, file, first byte) of each file that was asked for; `breaks_at` is where a file's
    connection ends, once."""

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repositories = repositories
        self.asked: list[tuple[str, str, int]] = []
        self.breaks_at: dict[str, int] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStandIn

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        if path == "api/models":
            self._search(parse_qs(self.path.partition("?")[2]).get("search", [""])[0])
            return
        if path.startswith("api/models/"):
            self._list(path.removeprefix("api/models/").partition("/revision/")[0])
            return
        model, _, rest = path.partition("/resolve/")
        data = self.hub.repositories.get(model, {}).get(rest.partition("/")[2])
        if data is None:
            self._send(404, b"{}", {"x-error-code": "EntryNotFound"})
        else:
            self._give(rest.partition("/")[2], data)

    def _search(self, words: str) -> None:
        """As the hub: every word is in the name, whatever its case."""
        names = [name for name in self.hub.repositories if all(word in name.lower() for word in words.lower().split())]
        found = [
            {"id": name, "tags": ["mlx"], "downloads": 7, "likes": 1, "lastModified": "2026-11-01T00:00:00.000Z"}
            for name in names
        ]
        self._send(200, json.dumps(found).encode(), {"content-type": "application/json"})

    def _list(self, model: str) -> None:
        files = self.hub.repositories.get(model)
        if files is None:
            self._send(404, b"{}", {"x-error-code": "RepoNotFound"})
            return
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        body = {
            "id": model,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "downloads": 1,
            "likes": 1,
            "private": False,
        }
        self._send(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _give(self, name: str, data: bytes) -> None:
        found = _FROM.fullmatch(self.headers.get("range") or "")
        begin = int(found[1]) if found else 0
        self.hub.asked.append((self.command, name, begin))
        headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"}
        if found:
            headers["content-range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        stop = self.hub.breaks_at.pop(name, 0) if self.command == "GET" else 0
        self._send(206 if found else 200, data[begin:], headers, stop=stop)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], *, stop: int = 0) -> None:
        self.send_response(status)
        for key, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: stop or None])
        if stop:
            self.close_connection = True


@contextmanager
def serving_hub(hub: HubStandIn) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
