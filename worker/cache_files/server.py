"""Hands kept files to other hosts: who asks must have been given leave by a gateway, for the tags that it names.

One thread for each connection, a few at the most. Nothing is read but files of the models' folders of which the same
host was told before, under names that are made of their keys; nothing is written.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.cache_door import hang_up
from shared.errors import WireError
from shared.grants import MAX_TICKET_BYTES, Leave, check_ticket, key_of
from shared.seal import HostKey
from worker.cache_files.catalog import Catalog
from worker.cache_files.file_format import DamagedFileError, read_head
from worker.cache_files.protocol import (
    FILE,
    FOUND,
    LATEST,
    LOCATE,
    MAX_ANSWER_BYTES,
    MAX_PROBE_BYTES,
    MAX_QUESTION_BYTES,
    NONCE_BYTES,
    PIECE_BYTES,
    PROBE,
    READ,
    REFUSED,
    Channel,
    PeerError,
    open_ticket,
)

log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 16
_TICKET_S = 5.0  # for whoever has shown nothing yet
_SILENCE_S = 20.0  # of the other side, before its connection is closed
_ACCEPT_S = 0.5


class FileServer:
    """`serve` speaks with whoever holds the other end of a stream, however it came; `listen` takes TCP connections.
    `root` is the folder of the models' folders. `last_read_s` is when something was read last, on the monotonic
    clock."""

    def __init__(self, root: Path, key: HostKey) -> None:
        self._catalog = Catalog(root)
        self._key = key
        self._secret = secrets.token_bytes(NONCE_BYTES)
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self._streams: dict[socket.socket, Leave | None] = {}  # by what leave, once that was shown
        self._generations: dict[str, int] = {}  # of readers' keys, where they are not the first
        self.last_read_s = 0.0
        self.sent_bytes = 0

    def listen(self, host: str, port: int) -> int:
        """The port; raises `OSError` where it cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_MOST_CONNECTIONS)
        self._listener.settimeout(_ACCEPT_S)
        threading.Thread(target=self._accept, args=(self._listener,), name="cache-files", daemon=True).start()
        return int(self._listener.getsockname()[1])

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that anybody could read."""
        return not self._catalog.folders()

    def close(self) -> None:
        self._stopping.set()
        if self._listener is not None:
            self._listener.close()
        for stream in list(self._streams):
            hang_up(stream)

    def learn(self, generations: Mapping[str, int]) -> None:
        """On any thread. Hosts' keys have had these generations: leave that was given to a former one is over, for who
        reads, too. They only grow."""
        grown = {host: number for host, number in generations.items() if number > self._generations.get(host, 1)}
        self._generations = {**self._generations, **grown}
        for stream, leave in list(self._streams.items()):
            if leave is not None and not self._is_current(leave):
                log.warning("%s may read here no more", leave.reader)
                hang_up(stream)

    def _is_current(self, leave: Leave) -> bool:
        return leave.generation >= self._generations.get(leave.reader, 1)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                stream, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.serve_beside(stream)

    def serve_beside(self, stream: socket.socket) -> None:
        """On a thread of its own; where too many are served already it is closed."""
        if not self._free.acquire(blocking=False):
            stream.close()
            return
        threading.Thread(target=self._serve_one, args=(stream,), name="cache-file", daemon=True).start()

    def _serve_one(self, stream: socket.socket) -> None:
        try:
            self.serve(stream)
        finally:
            self._free.release()

    def serve(self, stream: socket.socket) -> None:
        """Until the other side leaves or does what it must not. The stream is closed then."""
        self._streams[stream] = None
        try:
            stream.settimeout(_TICKET_S)
            leave, channel = self._begin(stream)
            _Session(self._catalog, channel, leave, self._secret, self._note).run()
        except PeerError as error:
            if error.reason != "gone":
                log.warning("who wanted to read kept prefixes was refused: %s", error)
        except (OSError, WireError) as error:
            log.warning("reading of kept prefixes ended: %s", error)
        finally:
            self._streams.pop(stream, None)
            stream.close()

    def _begin(self, stream: socket.socket) -> tuple[Leave, Channel]:
        """Who reads by what leave, and the channel."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        stream.sendall(nonce)
        ticket = open_ticket(stream, MAX_TICKET_BYTES, within_s=_TICKET_S)
        leave = check_ticket(ticket, now_s=time.time())
        self._streams[stream] = leave  # before it is looked at, so that `learn` misses none
        if not self._is_current(leave):
            raise PeerError("refused", f"{leave.reader} was locked out")
        stream.settimeout(_SILENCE_S)
        return leave, Channel(stream, key_of(self._key, ticket), nonce, is_server=True)

    def _note(self, sent_bytes: int) -> None:
        self.sent_bytes += sent_bytes
        self.last_read_s = time.monotonic()


class _Session:
    """One connection. Who was told of a file was given its code, and may read it, on any connection of its own."""

    def __init__(
        self,
        catalog: Catalog,
        channel: Channel,
        leave: Leave,
        secret: bytes,
        note: Callable[[int], None],
    ) -> None:
        self._catalog = catalog
        self._channel = channel
        self._reader = leave.reader
        self._secret = secret
        self._note = note
        self._may_take_over = leave.is_handover

    def run(self) -> None:
        while True:
            match self._channel.hear(MAX_QUESTION_BYTES, within_s=_SILENCE_S):
                case [kind, str(folder), bytes(seed), [*message_tags], [*head_tags]] if kind == LOCATE:
                    self._locate(folder, seed, message_tags, head_tags)
                case [kind, str(folder), int(most), int(part), int(parts)] if kind == LATEST and self._may_take_over:
                    self._latest(folder, most, part, parts)
                case [kind, str(folder), bytes(key), bytes(code)] if kind == READ:
                    self._read(folder, key, code)
                case [kind, int(size)] if kind == PROBE:
                    self._probe(size)
                case _:
                    raise PeerError("refused", f"{self._reader} asked for what nobody knows")

    def _locate(self, folder: str, seed: bytes, message_tags: list[Any], head_tags: list[Any]) -> None:
        if folder not in self._catalog.folders():
            self._channel.say([REFUSED, "other"])
            return
        tags = [[tag for tag in tags if isinstance(tag, bytes)] for tags in (message_tags, head_tags)]
        self._tell(folder, self._catalog.locate(folder, seed, *tags))

    def _latest(self, folder: str, most_bytes: int, part: int, parts: int) -> None:
        if not 0 <= part < parts:
            raise PeerError("refused", f"{self._reader} asked for part {part} of {parts}")
        self._tell(folder, self._catalog.latest(folder, most_bytes=most_bytes, part=part, parts=parts))

    def _tell(self, folder: str, keys: Iterable[bytes]) -> None:
        """Their headers and tokens, as many as an answer holds, each with its code."""
        found: list[list[Any]] = []
        room_bytes = MAX_ANSWER_BYTES - MAX_QUESTION_BYTES
        for key in keys:
            try:
                head = read_head(self._catalog.path(folder, key))
            except DamagedFileError:
                continue  # what hangs below is of no use to anybody
            room_bytes -= len(head.data)
            if room_bytes < 0:
                break
            found.append([key, head.nbytes, head.data, self._code(folder, key)])
        self._channel.say([FOUND, found])

    def _code(self, folder: str, key: bytes) -> bytes:
        return hmac.digest(self._secret, f"{self._reader}/{folder}/{key.hex()}".encode(), "sha256")

    def _read(self, folder: str, key: bytes, code: bytes) -> None:
        if not hmac.compare_digest(code, self._code(folder, key)):
            raise PeerError("refused", f"{self._reader} asked for a file of which it was not told")
        try:
            descriptor = os.open(self._catalog.path(folder, key), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            self._channel.say([REFUSED, "missing"])
            return
        with open(descriptor, "rb", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            self._channel.say([FILE, size])
            self._channel.send_data(self._counted(_pieces(file, size)))
        log.info("%s has read a kept prefix of %d bytes", self._reader, size)

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._note(len(piece))
            yield piece

    def _probe(self, size: int) -> None:
        size = max(0, min(size, MAX_PROBE_BYTES))
        self._channel.say([FILE, size])
        self._channel.send_data(bytes(min(PIECE_BYTES, size - at)) for at in range(0, size, PIECE_BYTES))


def _pieces(file: Any, size: int) -> Iterator[bytes]:
    """Files do not change under their names; one that ends early all the same ends the connection."""
    while size:
        piece = file.read(min(size, PIECE_BYTES))
        if not piece:
            raise PeerError("gone", "a file ended early")
        size -= len(piece)
        yield piece
