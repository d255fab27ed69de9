"""The process that reads files for a worker: `python -m worker.files.helper FD MEMORY_BYTES`.

It reads one file after another, within the memory that it may have. It ends when the worker's end of the socket closes,
and its guard ends it in any case.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
from pathlib import Path

from shared.errors import UnsupportedContentError
from worker.files.messages import HEADER, PDF, READ, REFUSED, SIZE, SOUND, receive
from worker.files.reading import image_pixels, pdf_text
from worker.files.sound import sound_samples


def answer(kind: int, raw: bytes) -> tuple[int, bytes]:
    """Whether the file was read, and what is in it, or why not."""
    try:
        if kind == PDF:
            return READ, pdf_text(raw).encode("utf-8", "replace")
        if kind == SOUND:
            return READ, sound_samples(raw).tobytes()
        pixels = image_pixels(raw)
        return READ, SIZE.pack(*pixels.shape[:2]) + pixels.tobytes()
    except UnsupportedContentError as error:
        return REFUSED, error.message.encode()


def serve(connection: socket.socket) -> None:
    """Until the other end closes."""
    with connection, contextlib.suppress(EOFError):
        while True:
            kind, size = HEADER.unpack(receive(connection, HEADER.size))
            status, data = answer(kind, bytes(receive(connection, size)))
            connection.sendall(HEADER.pack(status, len(data)))
            connection.sendall(data)


def _bound_memory(most_bytes: int) -> None:
    """Beyond what it holds already and so much more an allocation fails, and the file is refused. macOS takes the limit
    and does not keep it: there what an image says of its size is the bound, and the worker's patience."""
    limit = _held_bytes() + most_bytes
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _held_bytes() -> int:
    """Of address space, libraries included; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker says when
    _bound_memory(int(sys.argv[2]))
    serve(socket.socket(fileno=int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
