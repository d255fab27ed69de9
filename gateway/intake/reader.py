"""Reads bodies: small ones at once, others in a helper process, so that the event loop never stops for long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.dialects.base import Dialect, Parsed
from gateway.intake.reading import LENGTHS, Asked, Refused, read_request
from shared.errors import InternalError, OverloadedError, build_error
from shared.processes import GuardedProcess
from shared.request import PackedRequest

logger = logging.getLogger(__name__)

# What is read at once takes a few milliseconds at most; the way to the helper and back takes about one.
SMALL_BYTES: Final = 128 * 1024
SMALL_VALUES: Final = 2_000
_PATIENCE_S = 60.0
_STDERR = 2
_LOST = "the process that reads large requests was lost; try again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body as it arrived. `values` is about how many JSON values it holds, `is_exact` whether numbers among them may
    have to stay as they are written."""

    chunks: Sequence[bytes]
    values: int
    is_exact: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.chunks))

    @property
    def is_small(self) -> bool:
        return self.values <= SMALL_VALUES and self.size_bytes <= SMALL_BYTES

    def joined(self) -> bytes:
        return b"".join(self.chunks) if len(self.chunks) != 1 else self.chunks[0]


class BodyReader:
    """One of a gateway. Its helper is started when it is first needed, and again when it has died."""

    def __init__(self) -> None:
        self._helper: _Helper | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False

    async def read(self, dialect: Dialect, asked: Asked, body: Body) -> Parsed:
        """The canonical request. Raises `InvalidRequestError`, `WireError`, and `OverloadedError` when the helper dies
        over it."""
        asked = replace(asked, is_exact=body.is_exact)
        if body.is_small:
            return read_request(dialect, asked, body.joined(), packing=True)
        # Not interrupted by who waits for it: half a message would be taken for the next one's beginning.
        return await asyncio.shield(self._read_there(dialect.name, asked, body.chunks))

    async def start(self) -> None:
        """Have the helper ready."""
        async with self._lock:
            await self._ready_helper()

    async def _read_there(self, dialect: str, asked: Asked, chunks: Sequence[bytes]) -> Parsed:
        async with self._lock:
            read, data = await self._ask(dialect, asked, chunks)
        if isinstance(read, Refused):
            raise build_error(read.code, read.message, read.details)
        request = read.request
        if not isinstance(request, PackedRequest):
            raise InternalError("the process that reads large requests sent something else")
        return replace(read, request=replace(request, packed=replace(request.packed, data=data)))

    async def _ask(self, dialect: str, asked: Asked, chunks: Sequence[bytes]) -> tuple[Parsed | Refused, bytes]:
        """Whatever happens meanwhile, a helper that may be in the middle of a message is not asked again."""
        is_whole = False
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await (await self._ready_helper()).ask(dialect, asked, chunks)
            is_whole = True
            return answer
        except (OSError, EOFError, TimeoutError) as error:
            logger.error("the process that reads large requests was lost: %r", error)  # noqa: TRY400
            raise OverloadedError(_LOST, retry_after_s=1, reason="reader_lost") from error
        finally:
            if not is_whole:
                await self._drop_helper()

    async def _ready_helper(self) -> _Helper:
        if self._helper is not None and self._helper.has_ended:
            await self._drop_helper()
        if self._is_closed:
            raise OverloadedError("the gateway is stopping", retry_after_s=1)
        if self._helper is None:
            self._helper = await asyncio.to_thread(_Helper)
        return self._helper

    async def _drop_helper(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            await asyncio.to_thread(helper.stop)

    async def aclose(self) -> None:
        self._is_closed = True
        await self._drop_helper()


class _Helper:
    """The running process. Made and stopped on a thread, asked by one task at a time. Raises `OSError` when it cannot
    be started."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "gateway.intake.helper", str(theirs.fileno())]
            try:
                self._process = GuardedProcess(command, output=_STDERR, pass_fds=[theirs.fileno()], grace_s=1)
            except OSError:
                self._socket.close()
                raise
        self._socket.setblocking(False)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    async def ask(self, dialect: str, asked: Asked, chunks: Sequence[bytes]) -> tuple[Parsed | Refused, bytes]:
        """Raises `OSError` and `EOFError` when the process is lost."""
        loop = asyncio.get_running_loop()
        head = pickle.dumps((dialect, asked))
        await loop.sock_sendall(self._socket, LENGTHS.pack(len(head), sum(map(len, chunks))) + head)
        for chunk in chunks:
            await loop.sock_sendall(self._socket, chunk)
        head_bytes, data_bytes = LENGTHS.unpack(await self._receive(LENGTHS.size))
        read: Parsed | Refused = pickle.loads(await self._receive(head_bytes))
        return read, bytes(await self._receive(data_bytes))

    async def _receive(self, size: int) -> memoryview:
        loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(size))
        received = 0
        while received < size:
            count = await loop.sock_recv_into(self._socket, buffer[received:])
            if count == 0:
                raise EOFError("it ended")
            received += count
        return buffer

    def stop(self) -> None:
        self._socket.close()
        with contextlib.suppress(TimeoutError):
            self._process.wait(1.0)
        if not self.has_ended:
            self._process.kill()
            self._process.wait()
