"""How one host reads kept files of another: questions and answers over any stream of bytes (a TCP connection, or one
that a TLS door has let in), each with a code that only the two can make.

The server says a nonce. The client says its ticket (`shared.grants`). From there on both know the key of this
connection, made of the grant's key and the nonce, and every message is

    length (4 bytes) + HMAC-SHA256 (32 bytes) over direction, number of the message and content + content (msgpack)

A file's bytes follow their answer as they are, and then the code of all of them. Nothing that was recorded is of use on
another connection, and nothing that was changed on the way is believed. What is read is not hidden: who must hide it
lets the connection through TLS.
"""

from __future__ import annotations

import hmac
import math
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack

from shared.errors import WireError

NONCE_BYTES = 16
PIECE_BYTES = 1 << 20
MAX_QUESTION_BYTES = 64 << 10
MAX_ANSWER_BYTES = 32 << 20
MAX_PROBE_BYTES = 8 << 20
_CODE_BYTES = 32
_LENGTH = struct.Struct("!I")
_NUMBER = struct.Struct("!BQ")
_DATA = b"data"

LOCATE, LATEST, READ, PROBE = "locate", "latest", "read", "probe"
FOUND, FILE, REFUSED = "found", "file", "refused"


class PeerError(Exception):
    """The other side is not there (any more), or not what it should be. `reason` is a word for the metrics."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def receive(stream: socket.socket, size: int, until_s: float = math.inf) -> bytearray:
    """Exactly so many bytes. Raises `PeerError` where they do not come, or not until then, on the monotonic clock: who
    sends byte by byte could hold a connection for hours."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        if time.monotonic() > until_s:
            raise PeerError("gone", "what was begun did not come to its end")
        count = stream.recv_into(view)
        if not count:
            raise PeerError("gone", "the connection was closed")
        view = view[count:]
    return data


class Channel:
    """One side of a connection whose key both have. Raises `PeerError`, `OSError` and `TimeoutError`."""

    def __init__(self, stream: socket.socket, key: bytes, nonce: bytes, *, is_server: bool) -> None:
        self.stream = stream
        self._key = hmac.digest(key, nonce, "sha256")
        self._sent = self._received = 0
        self._own, self._other = (1, 0) if is_server else (0, 1)

    def say(self, content: list[Any]) -> None:
        data = msgpack.packb(content)
        code = hmac.digest(self._key, _NUMBER.pack(self._own, self._sent) + data, "sha256")
        self._sent += 1
        self.stream.sendall(b"".join((_LENGTH.pack(len(data)), code, data)))

    def hear(self, most_bytes: int, *, within_s: float = math.inf) -> list[Any]:
        until_s = time.monotonic() + within_s
        head = receive(self.stream, _LENGTH.size + _CODE_BYTES, until_s)
        (length,) = _LENGTH.unpack_from(head)
        if length > most_bytes:
            raise PeerError("refused", f"a message of {length} bytes")
        data = receive(self.stream, length, until_s)
        code = hmac.digest(self._key, _NUMBER.pack(self._other, self._received) + data, "sha256")
        if not hmac.compare_digest(code, head[_LENGTH.size :]):
            raise PeerError("refused", "the code of a message is wrong")
        self._received += 1
        try:
            content = msgpack.unpackb(data)
        except (ValueError, msgpack.UnpackException) as error:
            raise PeerError("refused", f"a message that cannot be read: {error}") from error
        if not isinstance(content, list) or not content:
            raise PeerError("refused", "a message that is none")
        return content

    def send_data(self, pieces: Iterable[bytes | memoryview]) -> None:
        """What was announced, piece by piece, and its code."""
        code = self._data_code(self._own, self._sent)
        self._sent += 1
        for piece in pieces:
            code.update(piece)
            self.stream.sendall(piece)
        self.stream.sendall(code.digest())

    def receive_data(self, size: int) -> Iterator[memoryview]:
        """The pieces as they come, each valid until the next is asked for. They are to be believed only when the
        iterator has ended."""
        code = self._data_code(self._other, self._received)
        self._received += 1
        buffer = memoryview(bytearray(min(size, PIECE_BYTES)))
        while size:
            count = self.stream.recv_into(buffer[: min(size, len(buffer))])
            if not count:
                raise PeerError("gone", "the connection was closed within a file")
            code.update(buffer[:count])
            size -= count
            yield buffer[:count]
        if not hmac.compare_digest(code.digest(), receive(self.stream, _CODE_BYTES)):
            raise PeerError("damaged", "the code of a file is wrong")

    def _data_code(self, direction: int, number: int) -> hmac.HMAC:
        return hmac.new(self._key, _NUMBER.pack(direction, number) + _DATA, "sha256")


def open_ticket(stream: socket.socket, most_bytes: int, *, within_s: float) -> bytes:
    """The server's side of the beginning: what the client says first. Raises `PeerError`."""
    until_s = time.monotonic() + within_s
    (length,) = _LENGTH.unpack(receive(stream, _LENGTH.size, until_s))
    if not 0 < length <= most_bytes:
        raise PeerError("refused", f"a ticket of {length} bytes")
    return bytes(receive(stream, length, until_s))


def say_ticket(stream: socket.socket, ticket: bytes) -> bytes:
    """The client's side of the beginning. The server's nonce."""
    nonce = bytes(receive(stream, NONCE_BYTES))
    stream.sendall(_LENGTH.pack(len(ticket)) + ticket)
    return nonce


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of `host:port`, an IPv6 address in brackets. Raises `WireError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise WireError(f"{address!r} is no address: expected host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
