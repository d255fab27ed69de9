"""For how long a large body stops the gateway for everybody else.

While one client sends the body, another asks `GET /health` over and over. Its longest wait is the longest stop of the
event loop, with whatever else keeps that process from running. The echo engine answers, so nothing is computed.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from tests.bench.contenders import Stack
from tests.bench.report import Table, median, seconds

REPEATS = 5
_IMAGE_BYTES = 6_000_000
_PING = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_PAUSE_S = 0.0005
_SETTLE_S = 0.2


def conversation(size_bytes: int, *, words: int) -> dict[str, Any]:
    """Rounds of a tool as Claude Code sends them, with results of so many words, and twenty tools."""
    pick = random.Random(size_bytes)

    def text(count: int) -> str:
        return " ".join(pick.choice(("alpha", "if x:", "\n    return", "(foo)", "é", "bar")) for _ in range(count))

    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": text(200)}]}]
    size = 0
    while size < size_bytes:
        call = {"type": "tool_use", "id": f"t{len(messages)}", "name": "Tool1", "input": {"p1": text(10), "p2": "5"}}
        thought = {"type": "thinking", "thinking": text(60), "signature": "s"}
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": text(words)}
        messages += [{"role": "assistant", "content": [thought, call]}, {"role": "user", "content": [result]}]
        size += len(orjson.dumps(messages[-2:]))
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string", "description": text(10)} for n in range(8)}}
    tools = [{"name": f"Tool{n}", "description": text(200), "input_schema": schema} for n in range(20)]
    return {"messages": [*messages, {"role": "user", "content": "echo:words 1"}], "tools": tools}


def images(count: int) -> dict[str, Any]:
    data = base64.b64encode(random.Random(0).randbytes(_IMAGE_BYTES)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"messages": [{"role": "user", "content": [{"type": "image", "source": source}] * count}]}


def letters(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * count}]}


BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    "conversation of 0.1 MB": lambda: conversation(30_000, words=400),
    "conversation of 0.9 MB": lambda: conversation(830_000, words=400),
    "the same in short results": lambda: conversation(830_000, words=40),
    "conversation of 8 MB": lambda: conversation(8_000_000, words=400),
    "three images of 6 MB": lambda: images(3),
    "900,000 one-letter blocks": lambda: letters(900_000),
}


async def measure_bodies() -> Table:
    config = {"models": [{"id": "echo", "source": "echo", "engine": "echo"}]}
    stack = Stack(Path("echo"), config=config)
    table = Table(
        title=f"The gateway's longest stop while a body is read (median and worst of {REPEATS})",
        head=("", "bytes", "stop p50", "worst", "a MB", "answered after", "status"),
    )
    await stack.start()
    try:
        await asyncio.to_thread(_measure_all, stack, table)
    finally:
        await stack.stop()
    return table


def _measure_all(stack: Stack, table: Table) -> None:
    _one(stack.port, _payload(stack.model, BODIES["conversation of 0.9 MB"]()))  # warms the way
    idle_s = [_longest_ping(stack.port, threading.Event(), for_s=0.3) for _ in range(REPEATS)]
    table.add("nothing", "0", seconds(median(idle_s)), seconds(max(idle_s)), "", "", "")
    for name, build in BODIES.items():
        body = _payload(stack.model, build())
        runs = [_one(stack.port, body) for _ in range(REPEATS)]
        stop_s, took_s = median([run[0] for run in runs]), median([run[1] for run in runs])
        worst_s = max(run[0] for run in runs)
        per_mb = seconds(stop_s / len(body) * 1e6)
        statuses = "/".join(sorted({str(run[2]) for run in runs}))
        table.add(name, f"{len(body):,}", seconds(stop_s), seconds(worst_s), per_mb, seconds(took_s), statuses)


def _payload(model: str, body: dict[str, Any]) -> bytes:
    return orjson.dumps({"model": model, "max_tokens": 10, **body})


def _one(port: int, body: bytes) -> tuple[float, float, int]:
    """(longest ping, seconds until the answer, its status)."""
    over = threading.Event()
    answers: list[tuple[float, int]] = []

    def send() -> None:
        began_s = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("POST", "/v1/messages", body, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            answers.append((time.perf_counter() - began_s, response.status))
        finally:
            connection.close()
            over.set()

    sender = threading.Thread(target=send)
    sender.start()
    longest_s = _longest_ping(port, over)
    sender.join()
    time.sleep(_SETTLE_S)
    return longest_s, *answers[0]


def _longest_ping(port: int, over: threading.Event, *, for_s: float = float("inf")) -> float:
    longest_s = 0.0
    ends_s = time.perf_counter() + for_s
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not over.is_set() and time.perf_counter() < ends_s:
            asked_s = time.perf_counter()
            connection.sendall(_PING)
            while not connection.recv(4096).endswith(b"}"):
                pass
            longest_s = max(longest_s, time.perf_counter() - asked_s)
            time.sleep(_PAUSE_S)
    return longest_s
