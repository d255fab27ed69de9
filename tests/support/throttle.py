"""A TCP proxy that lets so many bytes a second through, towards who connected: a slow link in front of a quick one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PIECE_BYTES = 64 << 10


@contextmanager
def throttled(address: str, bytes_per_s: float) -> Iterator[str]:
    """The proxy's address."""
    host, _, port = address.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    streams: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection((host, int(port)))
            streams.extend((near, far))
            threading.Thread(target=_copy, args=(near, far, 0.0), daemon=True).start()
            threading.Thread(target=_copy, args=(far, near, bytes_per_s), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for each in (listener, *streams):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _copy(source: socket.socket, target: socket.socket, bytes_per_s: float) -> None:
    """Until either side ends. Sleeps as long as what went through should have taken, and has not."""
    began_s, sent = time.monotonic(), 0
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
            sent += len(piece)
            ahead_s = sent / bytes_per_s - (time.monotonic() - began_s) if bytes_per_s else 0.0
            if ahead_s > 0:
                time.sleep(ahead_s)
        target.shutdown(socket.SHUT_WR)
