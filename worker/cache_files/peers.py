"""Fetches kept prefixes from other hosts into this model's folder, as files like its own, on threads beside the engine.

Whatever goes wrong means that the tokens are computed; it is counted under a word for the reason:

    gone      the peer cannot be reached, or left
    refused   it does not know our grant, or said what it must not
    missing   it has not (any more) what it was to have
    other     what it has belongs to another model, or to somebody else
    damaged   what came is not what its checksums say, or not what the model keeps
    slow      computing was sooner
    full      it could not be written here
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from shared.cache_door import BY_DOOR, read_through_door
from shared.config import Settings
from shared.errors import ConfigError, WireError
from shared.grants import Grant
from shared.worker_metrics import FETCH_FAILURES
from worker.cache_files.arrival import Arrival
from worker.cache_files.catalog import SUFFIX
from worker.cache_files.file_format import (
    DamagedFileError,
    FileHead,
    FileInfo,
    Shape,
    check_file,
    nothing_to_check,
    parse_info,
)
from worker.cache_files.matching import misnamed
from worker.cache_files.protocol import (
    FILE,
    FOUND,
    LATEST,
    LOCATE,
    MAX_ANSWER_BYTES,
    MAX_PROBE_BYTES,
    MAX_QUESTION_BYTES,
    PROBE,
    READ,
    REFUSED,
    Channel,
    PeerError,
    parse_address,
    say_ticket,
)

log = logging.getLogger(__name__)

_CONNECT_S = 2.0
_SILENCE_S = 10.0  # of a peer; those who wait give up sooner
_FAILED_S = 10.0  # for which a peer that could not be reached is not asked again
_LEAST_MEASURED_BYTES = 256 << 10
_SMOOTHING = 0.3
_THREADS = 4
_IDLE_S = 10.0
_MOST_IDLE = 4  # connections to peers that were asked, and of whose offers nothing was fetched yet

_numbers = itertools.count()  # of files on their way
Connect = Callable[[Grant], socket.socket]


def connect_tcp(grant: Grant) -> socket.socket:
    """At the address that the grant says. Raises `OSError` and `WireError`."""
    stream = socket.create_connection(parse_address(grant.address), timeout=_CONNECT_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def connecting(settings: Settings) -> Connect:
    """By TCP, or through the door where the grant says so."""

    def connect(grant: Grant) -> socket.socket:
        if grant.address != BY_DOOR:
            return connect_tcp(grant)
        try:
            return read_through_door(settings, grant.peer)
        except ConfigError as error:
            raise ConnectionRefusedError(error.message) from error

    return connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a peer has of a prompt, as it says itself; with `codes`, by key of the file, it gives it."""

    grant: Grant
    infos: Sequence[FileInfo]
    codes: Mapping[bytes, bytes]


class Peers:
    """`folder` is that of one model's files; its name is that of the model's identity, the same on each host."""

    def __init__(
        self, folder: Path, connect: Connect = connect_tcp, check: Callable[[Shape], None] = nothing_to_check
    ) -> None:
        """`check` raises `DamagedFileError` for what the model could not go on from."""
        self._folder = folder
        self._connect = connect
        self._check = check
        self._lock = threading.Lock()
        self._rates: dict[str, float] = {}
        self._failed_until_s: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "fetch")
        self._running: set[Arrival] = set()
        self._probing: set[str] = set()
        self._idle: dict[bytes, tuple[Channel, float]] = {}  # on which a peer was asked, when, by the grant's ticket
        self._taking_over: dict[str, Arrival | None] = {}  # by peer
        self.failures = dict.fromkeys(FETCH_FAILURES, 0)
        self.fetched_bytes = 0
        self.fetched_tokens = 0

    def rates(self) -> dict[str, float]:
        """Bytes per second by peer, as measured; 0 for one that cannot be reached now."""
        now_s = time.monotonic()
        with self._lock:
            failing = {peer: 0.0 for peer, until_s in self._failed_until_s.items() if until_s > now_s}
            return {**self._rates, **failing}

    @property
    def metrics(self) -> dict[str, float]:
        failed = {f"fetches_failed_{reason}": float(count) for reason, count in self.failures.items()}
        return {"fetched_tokens": self.fetched_tokens, "fetched_bytes": self.fetched_bytes, **failed}

    def close(self) -> None:
        for arrival in list(self._running):
            arrival.give_up()
        for ticket in list(self._idle):
            self._leave(ticket)
        self._threads.shutdown(wait=True, cancel_futures=True)

    # -- beside the engine ----------------------------------------------------------------------------------------

    def locate(
        self, grant: Grant, seed: bytes, message_tags: Sequence[bytes], head_tags: Sequence[bytes]
    ) -> Offer | None:
        """What the peer has of the prompt that the tags name, the deepest first. None when that is nothing, or when it
        cannot be asked, which is noted."""
        try:
            channel = self._open(grant)
            with contextlib.ExitStack() as unless_found:
                unless_found.enter_context(channel.stream)
                channel.say([LOCATE, self._folder.name, seed, *_fitting(message_tags, head_tags)])
                offer = _offer(grant, channel.hear(MAX_ANSWER_BYTES), seed)
                unless_found.pop_all()
        except (PeerError, OSError, WireError) as error:
            self._note_failure(grant.peer, error)
            return None
        self._keep(grant.ticket, channel)
        return offer

    def decline(self, offer: Offer) -> None:
        """Nothing of it is fetched."""
        self._leave(offer.grant.ticket)

    def _keep(self, ticket: bytes, channel: Channel) -> None:
        """What was asked on one connection is fetched on it: to make another may take as long as a fetch."""
        with self._lock:
            self._idle[ticket] = channel, time.monotonic()
            oldest = next(iter(self._idle)) if len(self._idle) > _MOST_IDLE else None
        if oldest is not None:
            self._leave(oldest)

    def _leave(self, ticket: bytes) -> None:
        channel, _ = self._idle.pop(ticket, (None, 0.0))
        if channel is not None:
            channel.stream.close()

    def _again(self, grant: Grant) -> Channel:
        """The connection on which the peer was asked; another where it may have ended it since."""
        channel, since_s = self._idle.pop(grant.ticket, (None, 0.0))
        if channel is not None and time.monotonic() - since_s < _IDLE_S:
            return channel
        if channel is not None:
            channel.stream.close()
        return self._open(grant)

    def measure_soon(self, grant: Grant) -> None:
        """How fast the link is, where nothing has come over it yet."""
        with self._lock:
            if grant.peer in self._rates or grant.peer in self._probing:
                return
            self._probing.add(grant.peer)
        with contextlib.suppress(RuntimeError):  # we are leaving
            self._threads.submit(self._measure, grant)

    def _measure(self, grant: Grant) -> None:
        try:
            channel = self._open(grant)
            with channel.stream:
                channel.say([PROBE, MAX_PROBE_BYTES])
                size, began_s = _file_size(channel), time.monotonic()
                for _ in channel.receive_data(size):
                    pass
                self._note_rate(grant.peer, size, time.monotonic() - began_s)
        except (PeerError, OSError, WireError) as error:
            self._note_failure(grant.peer, error)
        finally:
            self._probing.discard(grant.peer)

    # -- a host leaves ----------------------------------------------------------------------------------------------

    def take_over(self, grant: Grant, *, most_bytes: int, part: int, parts: int) -> None:
        """On any thread. Begin to fetch the latest conversations of a host that leaves, this part of them: once,
        however many gateways say so."""
        with self._lock:
            if grant.peer in self._taking_over:
                return
            self._taking_over[grant.peer] = None
        with contextlib.suppress(RuntimeError):  # we are leaving
            self._threads.submit(self._take_over, grant, most_bytes, part, parts)

    def _take_over(self, grant: Grant, most_bytes: int, part: int, parts: int) -> None:
        try:
            channel = self._open(grant)
            with channel.stream:
                channel.say([LATEST, self._folder.name, most_bytes, part, parts])
                offer = _offer(grant, channel.hear(MAX_ANSWER_BYTES), None)
                wanted = [info for info in offer.infos if not self._path(info).exists()]
                if sum(info.nbytes for info in wanted) > most_bytes:
                    raise PeerError("refused", "it offers more than was asked for")
                end = max((info.end for info in wanted), default=0)
                arrival = Arrival(peer=grant.peer, wanted=wanted, start=0, end=end, began_s=time.monotonic())
                self._follow(grant.peer, arrival, channel.stream)
                while (info := arrival.next_wanted()) is not None:
                    if not self._path(info).exists():  # a request may have fetched it meanwhile
                        self._fetch_one(channel, offer, info, arrival)
            self._note_rate(grant.peer, arrival.got_bytes, time.monotonic() - arrival.began_s)
            log.info("%s leaves: %d of its files were taken over, %d bytes", grant.peer, len(wanted), arrival.got_bytes)
        except (PeerError, OSError, WireError, DamagedFileError) as error:
            log.info("%s leaves, and not all that it has was taken over: %s", grant.peer, error)
        finally:
            with self._lock:
                done = self._taking_over.get(grant.peer)
                if done is None:
                    self._taking_over.pop(grant.peer, None)  # it may be said again
                else:
                    self._running.discard(done)

    def _follow(self, peer: str, arrival: Arrival, stream: socket.socket) -> None:
        arrival.stream = stream
        with self._lock:
            self._taking_over[peer] = arrival
            self._running.add(arrival)

    @property
    def has_taken_over(self) -> bool:
        """Whether `taken_over` would give anything."""
        return any(arrival is not None and arrival.arrived for arrival in list(self._taking_over.values()))

    def taken_over(self) -> list[FileInfo]:
        """What came since this was asked last from hosts that leave, parents before children. For one thread."""
        found = []
        for arrival in list(self._taking_over.values()):
            while arrival is not None and arrival.arrived:
                found.append(arrival.arrived.popleft())
        return found

    def _path(self, info: FileInfo) -> Path:
        return self._folder / f"{info.key.hex()}{SUFFIX}"

    def _open(self, grant: Grant) -> Channel:
        stream = self._connect(grant)
        try:
            stream.settimeout(_SILENCE_S)
            nonce = say_ticket(stream, grant.ticket)
        except BaseException:
            stream.close()
            raise
        return Channel(stream, grant.key, nonce, is_server=False)

    # -- the engine thread ----------------------------------------------------------------------------------------

    def fetch(
        self, offer: Offer, wanted: Sequence[FileInfo], *, start: int, end: int, is_from_end: bool = False
    ) -> Arrival:
        """Begin to fetch these of the offer's files, of which there is at least one, to have tokens `start..end`."""
        arrival = Arrival(
            peer=offer.grant.peer,
            wanted=wanted,
            start=start,
            end=end,
            began_s=time.monotonic(),
            is_from_end=is_from_end,
        )
        with self._lock:
            self._running.add(arrival)
        self._threads.submit(self._fetch, offer, arrival)
        return arrival

    def _fetch(self, offer: Offer, arrival: Arrival) -> None:
        try:
            channel = self._again(offer.grant)
            arrival.stream = channel.stream
            with channel.stream:
                while (info := arrival.next_wanted()) is not None:
                    self._fetch_one(channel, offer, info, arrival)
        except (PeerError, OSError, WireError, DamagedFileError) as error:
            if not arrival.is_slow:
                arrival.failure = self._note_failure(arrival.peer, error)
        finally:
            if arrival.is_slow:
                self.failures["slow"] += 1
                arrival.failure = "slow"
            self._note_rate(arrival.peer, arrival.got_bytes, time.monotonic() - arrival.began_s)
            arrival.current, arrival.is_over = None, True
            with self._lock:
                self._running.discard(arrival)

    def _fetch_one(self, channel: Channel, offer: Offer, info: FileInfo, arrival: Arrival) -> None:
        """A file appears under its name only when it is whole, and what it was said to be."""
        channel.say([READ, self._folder.name, info.key, offer.codes[info.key]])
        size = _file_size(channel)
        if size != info.nbytes:
            raise PeerError("damaged", f"a file of {size} bytes instead of {info.nbytes}")
        # The same file may be on its way twice: for a request, and from a host that leaves.
        temporary = self._folder / f"{info.key.hex()}.{os.getpid()}-{next(_numbers)}.fetched"
        try:
            with open(temporary, "wb", opener=_for_the_owner_alone) as file:
                for piece in channel.receive_data(size):
                    file.write(piece)
                    arrival.got_bytes += len(piece)
                    self.fetched_bytes += len(piece)
            came = check_file(temporary)
            if replace(came.info, used_s=info.used_s) != info:
                raise DamagedFileError("it is not what was offered")
            self._check(came.shape)
            if not self._path(info).exists():  # what is here is ours: nobody else's takes its place
                temporary.replace(self._path(info))
        finally:
            temporary.unlink(missing_ok=True)
        arrival.note_arrived(info)
        self.fetched_tokens += info.end - info.start

    # -- what is known of links -----------------------------------------------------------------------------------

    def _note_rate(self, peer: str, nbytes: int, seconds: float) -> None:
        if nbytes < _LEAST_MEASURED_BYTES:
            return
        rate = nbytes / max(seconds, 1e-6)
        with self._lock:
            known = self._rates.get(peer)
            self._rates[peer] = rate if known is None else known + _SMOOTHING * (rate - known)
            self._failed_until_s.pop(peer, None)

    def _note_failure(self, peer: str, error: Exception) -> str:
        """The word for it."""
        reason = _reason_of(error)
        self.failures[reason] += 1
        log.warning("a prefix could not be fetched from %s (%s): %s; it is computed", peer, reason, error)
        if reason in ("gone", "refused"):
            with self._lock:
                self._failed_until_s[peer] = time.monotonic() + _FAILED_S
        return reason


def _reason_of(error: Exception) -> str:
    match error:
        case PeerError():
            return error.reason
        case DamagedFileError():
            return "damaged"
        case WireError():
            return "refused"
        case ConnectionError() | TimeoutError() | socket.gaierror():
            return "gone"
        case OSError() if error.filename is not None or error.errno == errno.ENOSPC:
            return "full"
    return "gone"


def _fitting(message_tags: Sequence[bytes], head_tags: Sequence[bytes]) -> list[list[bytes]]:
    """As many as a question may have."""
    most = MAX_QUESTION_BYTES // 64
    return [list(message_tags[:most]), list(head_tags[: most // 2])]


def _offer(grant: Grant, answer: list[object], seed: bytes | None) -> Offer:
    """`seed` is whose files they must be, None for anybody's."""
    match answer:
        case [kind, [*rows]] if kind == FOUND:
            found = [_row(row) for row in rows]
        case [kind, str(reason)] if kind == REFUSED and reason in FETCH_FAILURES:
            raise PeerError(reason, "it has nothing of this model")
        case _:
            raise PeerError("refused", "an answer that nobody knows")
    if not found:
        raise PeerError("missing", "it has no such files")
    wrong = {info.key for info in misnamed(info for info, _ in found)}
    if len(wrong) == len(found):
        raise PeerError("refused", "it has files that are not what they are called")
    if seed is not None and any(info.seed != seed for info, _ in found):
        raise PeerError("other", "it has files of another model")
    good = [(info, code) for info, code in found if info.key not in wrong]
    return Offer(grant=grant, infos=[info for info, _ in good], codes={info.key: code for info, code in good})


def _row(row: object) -> tuple[FileInfo, bytes]:
    match row:
        case [bytes(key), int(nbytes), bytes(head), bytes(code)]:
            try:
                info = parse_info(FileHead(data=head, nbytes=nbytes))
            except DamagedFileError as error:
                raise PeerError("damaged", str(error)) from error
            if info.key == key:
                return info, code
    raise PeerError("refused", "a file that is none")


def _file_size(channel: Channel) -> int:
    match channel.hear(MAX_QUESTION_BYTES):
        case [kind, int(size)] if kind == FILE and size > 0:
            return size
    raise PeerError("missing", "it has the file no longer")


def _for_the_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
