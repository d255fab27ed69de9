"""Asks servers over HTTP/1.1, and reads what they stream as it comes.

A connection for each request: a server sees at once that its client is gone, and nothing is left in one that another
request would read. Redirects are not followed and no proxy is used: what is asked is a server that a person named.

What a server says is bounded, in bytes and in time: the head, each line, and the whole of an answer that is not read
line by line. Nothing compressed is asked for, so that nothing can grow when it is unpacked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

from shared.exact import dump_bytes

_READ_BYTES = 65536
_CONNECT_S = 10.0
MOST_ANSWER_BYTES = 64 * 1024 * 1024
MOST_LINE_BYTES = 8 * 1024 * 1024
_MOST_JSON_BYTES = 8 * 1024 * 1024  # of a list, a property, a state
_MOST_HEAD_BYTES = 256 * 1024  # with what may follow the body


class AskError(Exception):
    """Nobody is there, the connection broke, or the server was silent for too long (`is_silent`). `has_answered` says
    whether any of the answer had come."""

    def __init__(self, message: str, *, has_answered: bool = False, is_silent: bool = False) -> None:
        super().__init__(message)
        self.has_answered = has_answered
        self.is_silent = is_silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Of a server: a URL up to the path that all of its routes begin with, and the headers that each request has."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def at(self, path: str) -> str:
        return self.url.rstrip("/") + path


class _Parsed:
    """What httptools tells of a response: of the first that is not interim, whatever follows it."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.has_head = self.is_over = False
        self.head_bytes = self.status = 0
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head_bytes += len(name) + len(value)
        if not self.is_over and self.head_bytes <= _MOST_HEAD_BYTES:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = int(self.parser.get_status_code())
        if not self.has_head and not 100 <= status < 200:
            self.status, self.has_head = status, True

    def on_body(self, data: bytes) -> None:
        if not self.is_over:
            self.body.append(data)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_over = True
        else:
            self.headers.clear()  # interim: the true answer follows

    def take(self) -> bytes:
        data = b"".join(self.body)
        self.body.clear()
        return data


class Response:
    """An answer whose head has come."""

    def __init__(self, reader: asyncio.StreamReader, silence_s: float) -> None:
        self._reader = reader
        self._silence_s = silence_s
        self._parsed = _Parsed()

    @property
    def status(self) -> int:
        return self._parsed.status

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in small letters."""
        return self._parsed.headers

    async def begin(self) -> None:
        """Until its head has come, all of it within the time that the server may be silent."""
        async with _limited(self._silence_s, has_answered=False):
            while not self._parsed.has_head:
                await self._read()
        packed = self.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            raise AskError("the answer is compressed, which was not asked for", has_answered=True)

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._silence_s):
                data = await self._reader.read(_READ_BYTES)
        except TimeoutError:
            words = f"silent for {self._silence_s:.0f} s"
            raise AskError(words, has_answered=self._parsed.has_head, is_silent=True) from None
        except (OSError, ssl.SSLError) as error:
            raise AskError(f"the connection broke: {error}", has_answered=self._parsed.has_head) from error
        if not data and self._is_until_closed():
            self._parsed.is_over = True
            return
        if not data:
            raise AskError("the connection was closed", has_answered=self._parsed.has_head)
        try:
            self._parsed.parser.feed_data(data)
        except httptools.HttpParserError as error:
            words = f"no HTTP answer: {error or type(error).__name__}"
            raise AskError(words, has_answered=self._parsed.has_head) from error
        if self._parsed.head_bytes > _MOST_HEAD_BYTES:
            raise AskError("the head of the answer is too large", has_answered=self._parsed.has_head)

    def _is_until_closed(self) -> bool:
        """Whether the answer's end is that of the connection."""
        headers = self._parsed.headers
        is_framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
        return self._parsed.has_head and not is_framed

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `AskError`."""
        while True:
            if data := self._parsed.take():
                yield data
            if self._parsed.is_over:
                return
            await self._read()

    async def lines(self) -> AsyncIterator[bytes]:
        """Without their ends. A part of a line is no sign of life: each line is whole within the time that the server
        may be silent."""
        pieces = aiter(self.pieces())
        parts: list[bytes] = []
        while True:
            async with _limited(self._silence_s, has_answered=True):
                is_whole = await self._to_line_end(pieces, parts)
            *whole, rest = b"".join(parts).split(b"\n")
            parts[:] = [rest] if rest else []
            for line in whole:
                yield line.removesuffix(b"\r")
            if not is_whole:
                if rest:
                    yield rest.removesuffix(b"\r")
                return

    @staticmethod
    async def _to_line_end(pieces: AsyncIterator[bytes], parts: list[bytes]) -> bool:
        """Whether a line ended, before the answer did."""
        size = sum(map(len, parts))
        async for piece in pieces:
            parts.append(piece)
            size += len(piece)
            if b"\n" in piece:
                return True
            if size > MOST_LINE_BYTES:
                raise AskError(f"a line is longer than {MOST_LINE_BYTES >> 20} MB", has_answered=True)
        return False

    async def whole(self, most_bytes: int = MOST_ANSWER_BYTES) -> bytes:
        """Within the time that the server may be silent."""
        data = bytearray()
        async with _limited(self._silence_s, has_answered=True):
            async for piece in self.pieces():
                data += piece
                if len(data) > most_bytes:
                    raise AskError(f"the answer is larger than {most_bytes >> 20} MB", has_answered=True)
        return bytes(data)

    async def json(self) -> Any:
        """None for what is no JSON."""
        try:
            return orjson.loads(await self.whole(_MOST_JSON_BYTES))
        except orjson.JSONDecodeError:
            return None


@asynccontextmanager
async def _limited(limit_s: float, *, has_answered: bool) -> AsyncIterator[None]:
    """Raises `AskError` for what trickles in too slowly to be a sign of life."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        words = f"silent for {limit_s:.0f} s, or as good as that"
        raise AskError(words, has_answered=has_answered, is_silent=True) from None


@asynccontextmanager
async def ask(
    address: Address,
    path: str,
    body: Any = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
    silence_s: float = 60.0,
) -> AsyncIterator[Response]:
    """A response, its connection closed with the block. `body` is bytes, sent as they are, or a value for JSON;
    `silence_s` is for how long the server may say nothing. Raises `AskError`."""
    target = urlsplit(address.at(path))
    reader, writer = await _connect(target.scheme, target.hostname or "", target.port)
    try:
        sent = {**address.headers, **(headers or {})}
        writer.write(_request(target, method or ("GET" if body is None else "POST"), sent, body))
        with contextlib.suppress(OSError):  # a server that refuses early is heard below
            async with _limited(silence_s, has_answered=False):  # and one that does not read is not waited for
                await writer.drain()
        response = Response(reader, silence_s)
        await response.begin()
        yield response
    finally:
        _close(writer)


def _close(writer: asyncio.StreamWriter) -> None:
    """At once: a transport that is closed waits until all is sent, which a server that does not read makes for ever."""
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()
    else:
        writer.close()


async def ask_json(
    address: Address, path: str, body: Any = None, *, method: str = "", silence_s: float = 10.0
) -> tuple[int, Any]:
    """(status, parsed body). Raises `AskError`."""
    async with ask(address, path, body, method=method, silence_s=silence_s) as response:
        return response.status, await response.json()


async def _connect(scheme: str, host: str, port: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    is_secret = scheme == "https"
    context = ssl.create_default_context() if is_secret else None
    try:
        async with asyncio.timeout(_CONNECT_S):
            return await asyncio.open_connection(host, port or (443 if is_secret else 80), ssl=context)
    except TimeoutError:
        raise AskError(f"{host} does not answer") from None
    except (OSError, ssl.SSLError, ValueError) as error:
        raise AskError(f"nobody answers at {host}:{port}: {error}") from error


def _request(target: Any, method: str, headers: Mapping[str, str], body: Any) -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else dump_bytes(body)
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    fields = {"Host": target.netloc.rpartition("@")[2], "Connection": "close", "Accept": "*/*", **headers}
    if body is not None:
        fields = {"Content-Type": "application/json", **fields, "Content-Length": str(len(data))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + data


async def events(response: Response) -> AsyncIterator[bytes]:
    """The data of server-sent events, one after another; an empty one for a comment, which is a sign of life."""
    async for line in response.lines():
        if line.startswith(b":"):
            yield b""
        elif line.startswith(b"data:"):
            yield line[5:].strip()
