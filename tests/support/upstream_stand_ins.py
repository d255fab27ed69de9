"""Stand-ins for servers that do not run here, made from their public documentation. Each says in its name that it is
one. What they do not prove: that LM Studio and Ollama still answer so.

`LmStudioStandIn` has LM Studio's list, explicit loading and windows; `OllamaStandIn` Ollama's native chat and its
reload at another `num_ctx`; `OpenAiStandIn` is any server of OpenAI's routes, with the faults that such servers have.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Chunk = Mapping[str, Any]
LIMITS = {"anthropic_ratelimit_requests_remaining": "41", "request_id": "req_there"}
HANG, BREAK = object(), object()  # in the place of a chunk: silence; the connection ends


def text_chunk(text: str) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def end_chunk(reason: str = "stop", **usage: Any) -> Chunk:
    told = {"usage": usage} if usage else {}
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **told}


class StandIn:
    """Answers on a port of its own. `asked` holds (path, headers, body) of each request, `raw` the bodies as bytes."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.raw: list[bytes] = []
        self.released = threading.Event()

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, _, body in self.asked if asked == path]

    def answer(self, handler: _Handler, path: str, body: Any) -> None:
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._take(None)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.stand_in.raw.append(raw)
        self._take(json.loads(raw or b"null"))

    def _take(self, body: Any) -> None:
        path = self.path.partition("?")[0]
        self.stand_in.asked.append((path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            self.stand_in.answer(self, path, body)

    def send(self, data: Any, status: int = 200, **headers: str) -> None:
        raw = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(raw)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def stream(self, lines: Sequence[Any], *, kind: str, write: Callable[[Any], bytes], **headers: str) -> None:
        self.send_response(200)
        for name, value in {"content-type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        for line in lines:
            if line is BREAK:
                return
            if line is HANG:
                self.stand_in.released.wait(30)
                return
            self.wfile.write(write(line))
            self.wfile.flush()


@contextmanager
def serving(stand_in: StandIn, port: int = 0) -> Iterator[str]:
    """Its address."""
    handler = type("Handler", (_Handler,), {"stand_in": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stand_in.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class OpenAiStandIn(StandIn):
    """`chunks` are said to every request; a tuple (status, body) in their place is an error."""

    def __init__(self, chunks: Sequence[Any] | tuple[int, Any] = (), *, window: int = 0, model: str = "m") -> None:
        super().__init__()
        self.chunks: Any = chunks
        self.entry: dict[str, Any] = {"id": model, "object": "model"}
        if window:
            self.entry["max_model_len"] = window

    def answer(self, handler: _Handler, path: str, body: Any) -> None:
        if path == "/v1/models":
            handler.send({"object": "list", "data": [self.entry]})
        elif path == "/v1/chat/completions" and isinstance(self.chunks, tuple):
            handler.send(self.chunks[1], self.chunks[0], retry_after="7")
        elif path == "/v1/chat/completions":
            handler.stream(self.chunks, kind="text/event-stream", write=_event)
        else:
            handler.send({"detail": "Not Found"}, 404)


def _event(chunk: Any) -> bytes:
    if isinstance(chunk, str):
        return chunk.encode() + b"\n\n"
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class AnthropicStandIn(StandIn):
    """Anthropic's Messages API, as its documentation has it. `whole` is the message to who does not stream."""

    def __init__(self, events: Sequence[Any] | tuple[int, Any] = (), *, whole: Any = None) -> None:
        super().__init__()
        self.events: Any = events
        self.whole = whole

    def answer(self, handler: _Handler, path: str, body: Any) -> None:
        if path == "/v1/models":
            handler.send({"data": [{"type": "model", "id": "claude-x", "display_name": "X"}]})
        elif isinstance(self.events, tuple):
            handler.send(self.events[1], self.events[0], retry_after="7", **LIMITS)
        elif path.endswith("/count_tokens"):
            handler.send({"input_tokens": 1234})
        elif self.whole is not None and not body.get("stream"):
            handler.send(self.whole, **LIMITS)
        else:
            handler.stream(self.events, kind="text/event-stream", write=_named_event, **LIMITS)


def _named_event(event: Any) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


class LmStudioStandIn(OpenAiStandIn):
    """LM Studio 0.4's REST API: a list with trained and loaded windows, loading on demand."""

    def __init__(self, chunks: Sequence[Any] = (), *, trained: int = 131072, loaded: int = 0) -> None:
        super().__init__(chunks, model="qwen")
        self.trained = trained
        self.loaded = loaded

    def answer(self, handler: _Handler, path: str, body: Any) -> None:
        if path == "/api/v1/models/load":
            self.loaded = int(body.get("context_length") or 4096)
            handler.send({"type": "llm", "instance_id": "qwen", "status": "loaded", "load_config": self._config()})
        elif path == "/api/v1/models":
            instances = [{"id": "qwen", "config": self._config()}] if self.loaded else []
            entry = {"type": "llm", "key": "qwen", "max_context_length": self.trained, "loaded_instances": instances}
            handler.send({"models": [entry]})
        else:
            super().answer(handler, path, body)

    def _config(self) -> dict[str, Any]:
        return {"context_length": self.loaded, "parallel": 4}


class OllamaStandIn(StandIn):
    """Ollama's native API. `loads` counts how often the model was loaded: anew for each other `num_ctx`."""

    def __init__(self, lines: Sequence[Any] = (), *, trained: int = 40960) -> None:
        super().__init__()
        self.lines = lines
        self.trained = trained
        self.loads = 0
        self._num_ctx = 0

    def answer(self, handler: _Handler, path: str, body: Any) -> None:
        if path == "/api/version":
            handler.send({"version": "0.33.0"})
        elif path == "/api/tags":
            handler.send({"models": [{"name": "far:cloud", "remote_host": "https://x"}, {"name": "qwen:latest"}]})
        elif path == "/api/show":
            info = {"qwen3.context_length": self.trained}
            handler.send({"model_info": info, "capabilities": ["completion", "tools"]})
        elif path == "/api/chat":
            num_ctx = body["options"]["num_ctx"]
            self.loads += num_ctx != self._num_ctx
            self._num_ctx = num_ctx
            write = lambda line: json.dumps(line).encode() + b"\n"  # noqa: E731
            handler.stream(self.lines, kind="application/x-ndjson", write=write)
        else:
            handler.send({"error": "not found"}, 404)


def main() -> None:
    """`python -m tests.support.upstream_stand_ins PORT`: one that a command starts, until it is ended."""
    said = [text_chunk(f"I am {os.getpid()}"), end_chunk(), "data: [DONE]"]
    with serving(OpenAiStandIn(said, window=8192), int(sys.argv[1])) as url:
        print(f"Server listening on {url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
