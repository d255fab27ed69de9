"""Has files read in a process of their own, one after another.

Reading holds Python's interpreter lock, often for seconds, and every stream's next token would wait for it; and what
anybody may send is better read by a process that holds nothing and may be ended. It is started when it is first needed,
spawned and under a guard, and again after it was lost.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import OverloadedError, UnsupportedContentError
from shared.processes import GuardedProcess
from worker.files.messages import (
    HEADER,
    IMAGE,
    IMAGE_REFUSAL,
    PDF,
    READ,
    SIZE,
    SOUND,
    SOUND_REFUSAL,
    UNREADABLE_PDF,
    receive,
)

log = logging.getLogger(__name__)

PATIENCE_S: Final = 30.0
MEMORY_BYTES: Final = 2 << 30
_STDERR = 2
_PARTING_S = 0.2  # a helper that reads nothing ends at once


class FileReader:
    """Thread-safe."""

    def __init__(self, *, patience_s: float = PATIENCE_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self._patience_s = patience_s
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._helper: _Helper | None = None

    def pdf_text(self, raw: bytes) -> str:
        """The text of a PDF. Raises `UnsupportedContentError` for one that holds none or cannot be read, and
        `OverloadedError` where no process can be started."""
        return str(self._ask(PDF, raw, UNREADABLE_PDF), "utf-8")

    def image_pixels(self, raw: bytes) -> NDArray[np.uint8]:
        """The red, green and blue of each pixel, (height, width, 3), upright. Raises the same."""
        data = self._ask(IMAGE, raw, IMAGE_REFUSAL)
        height, width = SIZE.unpack(data[: SIZE.size])
        return np.frombuffer(data, np.uint8, offset=SIZE.size).reshape(height, width, 3)

    def sound_samples(self, raw: bytes) -> NDArray[np.int16]:
        """(samples,) at 16 kHz, of one channel. Raises the same."""
        return np.frombuffer(self._ask(SOUND, raw, SOUND_REFUSAL), np.int16)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _ask(self, kind: int, raw: bytes, refusal: str) -> memoryview:
        with self._lock:
            helper = self._ready()
            try:
                status, data = helper.ask(kind, raw)
            except TimeoutError as error:
                self._drop()
                raise UnsupportedContentError(f"{refusal}: it takes more than {self._patience_s:.0f} s") from error
            except (OSError, EOFError) as error:
                self._drop()
                log.warning("the process that reads files was lost over one: %r", error)
                raise UnsupportedContentError(f"{refusal}: the process that read it was lost") from error
        if status != READ:
            raise UnsupportedContentError(str(data, "utf-8"))
        return data

    def _ready(self) -> _Helper:
        if self._helper is not None and self._helper.has_ended:
            self._drop()
        if self._helper is None:
            try:
                self._helper = _Helper(self._patience_s, self._memory_bytes)
            except OSError as error:
                raise OverloadedError(
                    f"the process that reads files cannot be started: {error.strerror}", retry_after_s=1
                ) from error
        return self._helper

    def _drop(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.stop()


class _Helper:
    """The running process. Raises `OSError` when it cannot be started."""

    def __init__(self, patience_s: float, memory_bytes: int) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # -P: a folder of the person's own called `worker` is not ours.
            module = [sys.executable, "-P", "-m", "worker.files.helper"]
            command = [*module, str(theirs.fileno()), str(memory_bytes)]
            try:
                self._process = GuardedProcess(command, output=_STDERR, pass_fds=[theirs.fileno()], grace_s=1)
            except OSError:
                self._socket.close()
                raise
        self._socket.settimeout(patience_s)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, kind: int, raw: bytes) -> tuple[int, memoryview]:
        """Raises `OSError` and `EOFError` when the process is lost, `TimeoutError` when it takes too long."""
        self._socket.sendall(HEADER.pack(kind, len(raw)))
        self._socket.sendall(raw)
        status, size = HEADER.unpack(receive(self._socket, HEADER.size))
        return status, receive(self._socket, size)

    def stop(self) -> None:
        self._socket.close()
        with contextlib.suppress(TimeoutError):
            self._process.wait(_PARTING_S)
        if not self.has_ended:
            self._process.kill()
            self._process.wait()


FILES: Final = FileReader()  # this process's own
