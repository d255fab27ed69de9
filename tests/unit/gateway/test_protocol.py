"""What stands before a body is bounded, and refused in the client's own shape: real connections to the real parser."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from gateway.http import protocol
from gateway.http.middleware import ErrorAnswers, RequestContext
from gateway.http.protocol import BoundedHttp, Refusals
from gateway.http.replies import read_body, send_json

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Scenario = Callable[[Connect, list[BoundedHttp]], Awaitable[None]]
_DEADLINE_S = 20


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    await send_json(send, 200, {"path": scope["path"], "bytes": body.size_bytes, "fields": len(scope["headers"])})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Connect, list[BoundedHttp]]]:
    """A way to connect, and the server's side of each connection."""
    config = uvicorn.Config(RequestContext(ErrorAnswers(Refusals(hello))), http=BoundedHttp, log_config=None)
    config.load()
    state = ServerState()
    made: list[BoundedHttp] = []

    def new_connection() -> BoundedHttp:
        made.append(BoundedHttp(config, state, {}))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(new_connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    try:
        yield connect, made
    finally:
        server.close()
        for transport in [each.transport for each in (*made, *writers)]:
            transport.abort()  # type: ignore[attr-defined]
        for writer in writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await asyncio.gather(*state.tasks, return_exceptions=True)


def play(scenario: Scenario) -> None:
    async def main() -> None:
        async with asyncio.timeout(_DEADLINE_S), serving() as (connect, made):
            await scenario(connect, made)

    asyncio.run(main())


async def send_all(writer: asyncio.StreamWriter, pieces: Iterable[bytes]) -> int:
    """How much was sent before the other side stopped to take it."""
    sent = 0
    for piece in pieces:
        try:
            writer.write(piece)
            await writer.drain()
        except ConnectionError:
            break
        sent += len(piece)
    return sent


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, orjson.loads(await reader.readexactly(int(headers["content-length"])))


def asked(pieces: Iterable[bytes]) -> tuple[int, dict[str, str], Any]:
    """The answer to what is sent on one connection."""
    found: list[tuple[int, dict[str, str], Any]] = []

    async def scenario(connect: Connect, _: list[BoundedHttp]) -> None:
        reader, writer = await connect()
        sending = asyncio.create_task(send_all(writer, pieces))
        found.append(await answer(reader))
        sending.cancel()

    play(scenario)
    return found[0]


def head(*fields: bytes, path: bytes = b"/v1/messages", method: bytes = b"POST") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"host: localhost", *fields])


ENDLESS = 200  # pieces of 16 KB, which no client has to send to its end
KB = 1024
TOO_LARGE = {
    "64 KB in one header": [head(b"x-a: " + b"a" * 64 * KB), b"\r\n\r\n"],
    "1 MB in one header": [head(b"x-a: " + b"a" * KB * KB), b"\r\n\r\n"],
    "1 MB in many": [head(*(b"x-%d: %s" % (i, b"a" * KB) for i in range(KB))), b"\r\n\r\n"],
    "100,000 headers": [head(*(b"a:b" for _ in range(100_000))), b"\r\n\r\n"],
    "257 headers": [head(*(b"a:b" for _ in range(257))), b"\r\n\r\n"],
    "a header without end": [head(b"x-a: "), *([b"a" * 16 * KB] * ENDLESS)],
    "a name without end": [head(b""), *([b"a" * 16 * KB] * ENDLESS)],
    "a URL without end": [b"POST /v1/messages?", *([b"a" * 16 * KB] * ENDLESS)],
}


@pytest.mark.parametrize("pieces", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_head_over_the_limit_is_refused_in_the_clients_shape(pieces: list[bytes]) -> None:
    status, headers, body = asked(pieces)
    assert (status, headers["connection"]) == (431, "close")
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["request_id"] == headers["request-id"]


def test_the_shape_is_that_of_the_path() -> None:
    large = b"x-a: " + b"a" * 65 * KB + b"\r\n\r\n"
    assert asked([head(large, path=b"/v1/chat/completions")])[2]["error"]["code"] == "headers_too_large"
    assert asked([head(large, path=b"/v1/models", method=b"GET")])[0] == 431


def test_a_head_within_the_limits_is_served() -> None:
    fields = [b"x-%d: %s" % (i, b"a" * 200) for i in range(254)]
    status, _, body = asked([head(*fields, b"content-length: 2"), b"\r\n\r\n", b"{}"])
    assert (status, body["fields"], body["bytes"]) == (200, 256, 2)


def test_a_body_and_its_chunks_are_no_head() -> None:
    chunks = [b"1\r\na\r\n" * 1000] * 100
    status, _, body = asked([head(b"transfer-encoding: chunked"), b"\r\n\r\n", *chunks, b"0\r\n\r\n"])
    assert (status, body["bytes"]) == (200, 100_000)
    status, _, body = asked([head(b"content-length: %d" % (KB * KB)), b"\r\n\r\n", b"a" * KB * KB])
    assert (status, body["bytes"]) == (200, KB * KB)


def test_each_request_of_a_connection_has_the_limits_for_itself() -> None:
    async def scenario(connect: Connect, _: list[BoundedHttp]) -> None:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(head(b"x-a: " + b"a" * 40 * KB, b"content-length: 0") + b"\r\n\r\n")
            assert (await answer(reader))[0] == 200

    play(scenario)


def test_a_request_before_the_refused_one_is_still_answered() -> None:
    async def scenario(connect: Connect, _: list[BoundedHttp]) -> None:
        reader, writer = await connect()
        writer.write(head(b"content-length: 0") + b"\r\n\r\n" + head(b"x-a: " + b"a" * 65 * KB + b"\r\n\r\n"))
        assert (await answer(reader))[0] == 200
        assert (await answer(reader))[0] == 431

    play(scenario)


@pytest.mark.parametrize(
    "tail", [[b"0\r\nx-a: ", *([b"a" * 16 * KB] * ENDLESS)], [b"1;x=", *([b"a" * 16 * KB] * ENDLESS)]]
)
def test_nothing_without_end_is_kept_behind_the_head_either(tail: list[bytes]) -> None:
    """A trailer, and what may stand behind the length of a chunk."""

    async def scenario(connect: Connect, _: list[BoundedHttp]) -> None:
        reader, writer = await connect()
        writer.write(head(b"transfer-encoding: chunked") + b"\r\n\r\n")
        await send_all(writer, tail)
        with contextlib.suppress(ConnectionError):
            assert not (await reader.read())

    play(scenario)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 100])
def test_what_is_no_http_is_told_so(sent: bytes) -> None:
    status, headers, body = asked([sent])
    assert (status, headers["connection"]) == (400, "close")
    assert "HTTP/1.1" in body["error"]["message"]


@pytest.mark.parametrize("field", [b"content-length: -5", b"content-length: 99999999999999999999999", b"a b: c"])
def test_a_header_that_cannot_be_read_is_refused_in_the_clients_shape(field: bytes) -> None:
    status, _, body = asked([head(field) + b"\r\n\r\n"])
    assert (status, body["type"]) == (400, "error")


def test_a_head_that_does_not_come_to_its_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    status, headers, body = asked([head(b"x-a: a")])
    assert (status, headers["connection"], body["error"]["type"]) == (408, "close", "timeout_error")


def test_a_connection_on_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "IDLE_S", 0.05)

    async def scenario(connect: Connect, _: list[BoundedHttp]) -> None:
        reader, _writer = await connect()
        assert await reader.read() == b""

    play(scenario)


def test_who_is_slow_within_the_time_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass before the first byte has passed when the last one comes."""
    monkeypatch.setattr(protocol, "IDLE_S", 0.5)

    def pieces() -> Iterator[bytes]:
        began_s = time.monotonic()
        first, *rest = [bytes([byte]) for byte in head(b"content-length: 0") + b"\r\n\r\n"]
        yield first
        for number, byte in enumerate(rest, start=1):
            time.sleep(max(0.0, began_s + 0.6 * number / len(rest) - time.monotonic()))
            yield byte

    assert asked(pieces())[0] == 200


def test_what_is_sent_behind_a_refused_head_is_not_kept() -> None:
    async def scenario(connect: Connect, made: list[BoundedHttp]) -> None:
        reader, writer = await connect()
        await send_all(writer, [head(b"x-a: "), *([b"a" * 16 * KB] * 20)])
        assert (await answer(reader))[0] == 431
        await send_all(writer, [b"a" * 16 * KB] * 100)
        assert len(made[0].url) < KB
        assert sum(len(value) for _, value in made[0].headers) < 128 * KB

    play(scenario)
