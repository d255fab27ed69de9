"""The process that reads large bodies for a gateway: `python -m gateway.intake.helper FD`.

Parsing and encoding hold Python's interpreter lock for as long as they take, so beside the event loop no thread
would help. It ends when the gateway's end of the socket closes, and its guard ends it in any case.

A message is two lengths (64 bits each, network order), a pickled head and bytes as they are. Pickle, because both ends
are the same code and nobody else holds the socket.
"""

from __future__ import annotations

import gc
import pickle
import signal
import socket
import sys
from dataclasses import replace

from gateway.dialects.base import Parsed
from gateway.dialects.registry import DIALECTS
from gateway.intake.reading import LENGTHS, Asked, Refused, read_request
from shared.errors import GatewayError, InternalError
from shared.request import PackedRequest


def answer(dialect: str, asked: Asked, body: memoryview) -> tuple[Parsed | Refused, bytes]:
    """(what was read, without the packed conversation; that conversation)."""
    try:
        parsed = read_request(DIALECTS[dialect], asked, body, packing=True)
    except GatewayError as error:
        return Refused(code=error.code, message=error.message, details=error.details), b""
    except Exception as error:  # noqa: BLE001 any bug in here: its client is told, others are read all the same
        return Refused(code=InternalError.code, message=f"the body could not be read: {error!r}", details={}), b""
    request = parsed.request
    assert isinstance(request, PackedRequest)
    light = replace(request, packed=replace(request.packed, data=b""))
    return replace(parsed, request=light), request.packed.data


def serve(connection: socket.socket) -> None:
    """Until the other end closes."""
    with connection:
        while lengths := _receive(connection, LENGTHS.size):
            head_bytes, body_bytes = LENGTHS.unpack(lengths)
            dialect, asked = pickle.loads(_receive(connection, head_bytes))
            read, data = answer(dialect, asked, _receive(connection, body_bytes))
            head = pickle.dumps(read)
            connection.sendall(LENGTHS.pack(len(head), len(data)) + head)
            connection.sendall(data)


def _receive(connection: socket.socket, size: int) -> memoryview:
    """Exactly so many bytes; none when the other end has closed."""
    buffer = memoryview(bytearray(size))
    received = 0
    while received < size:
        count = connection.recv_into(buffer[received:])
        if count == 0:
            return buffer[:0]
        received += count
    return buffer


def main() -> int:
    gc.disable()  # values of JSON make no cycles, and looking for some among a million takes longer than reading them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the gateway says when
    serve(socket.socket(fileno=int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
