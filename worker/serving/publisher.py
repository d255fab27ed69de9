"""Frames out: one PUBLISH per gateway and engine step, kept a while in a capped stream, replies read later.

A round trip would hold up the engine thread, so commands are written to a connection of their own and their
replies are read when they have come. Every frame is one write of two commands: XADD to the log from which a gateway
repairs a gap, then PUBLISH. Frames whose replies have not come are kept (bounded) and written again after a lost
connection; a gateway drops what it has seen by the frame's seq. When the bound is passed the oldest frames are
given up, which the gateway sees as a gap it cannot repair.

A Redis that comes back empty has no log, and what it had acknowledged in its last moments may have reached nobody. So
the frames of the last seconds are kept (`worker.serving.ring`), and after a lost connection they are logged again
before anything else is written: a log that still has them refuses them.

PUBLISH answers how many listen. Nobody for `GONE_AFTER_S` means that the gateway is gone; less may be a gateway
that reconnects.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import keys
from shared.beats import until_beat_s
from shared.keys import Names
from shared.seal import HostKey, Purpose, Seal
from shared.wire import Frame, FrameEntry, encode_frame
from worker.serving.ring import Ring

log = logging.getLogger(__name__)

BEAT_S = 0.5
_IDLE_S = 5.0  # between two looks while no gateway is owed a beat: work wakes the thread
GONE_AFTER_S = 5.0
LINGER_S = 10.0  # beats go on this long after the last frame, so that its loss shows
SEND_TIMEOUT_S = 1.0  # the longest a frozen Redis can hold up the engine, once
UNACKED_FRAMES = 4096
UNACKED_BYTES = 32 * 1024 * 1024
_DRAIN_EVERY = 4  # frames between looks for replies
_EXPIRE_EVERY_S = 10.0
_RETRY_S = (0.02, 0.5)
_ANSWER_S = 0.05

_LOST = (RedisConnectionError, RedisTimeoutError)


class _Connection(Protocol):
    """What is used of redis-py's connections (it has no types); they bring TLS, users and unix sockets."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def pack_commands(self, commands: Sequence[tuple[object, ...]]) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    def can_read(self, timeout: float = 0) -> bool: ...
    def read_response(self) -> object: ...


@dataclass(slots=True)
class _Gateway:
    """One gateway's numbering and whether it listens. `silent_s` is for how long nobody did, counted from one answer of
    Redis to the next; `asked_s` is when the last of those came, 0 while somebody listens."""

    name: str
    channel: str
    seal: Seal
    seq: int = 0
    work: int = 0
    last_frame_s: float = 0.0
    expires_set_s: float = 0.0
    silent_s: float = 0.0
    asked_s: float = 0.0
    is_log_wrong: bool = False  # its log holds something else, and goes with the next frame
    is_reported: bool = False


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame not yet acknowledged. A beat has no `log_id`."""

    gateway: _Gateway
    commands: tuple[tuple[object, ...], ...]
    size_bytes: int

    @property
    def logging(self) -> tuple[object, ...] | None:
        """What puts it into the log; None for a beat."""
        return next((command for command in self.commands if command[0] == "XADD"), None)


@dataclass(slots=True)
class _Outbox:
    """Frames in the order of their making; the first `written` of them are on the connection, unanswered.
    `owed` are the replies still missing, oldest first: the frame they end, or None for a reply inside one."""

    frames: deque[_Sent] = field(default_factory=deque)
    written: int = 0
    size_bytes: int = 0
    owed: deque[tuple[str, _Sent]] = field(default_factory=deque)
    ring: Ring[_Sent] = field(default_factory=Ring)


class Publisher:
    """Thread-safe. `gateway_gone(name)` is called on the publisher's own thread."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        key: HostKey,
        *,
        worker: str,
        epoch: str,
        gateway_gone: Callable[[str], None] = lambda gateway: None,
        gone_after_s: float = GONE_AFTER_S,
    ) -> None:
        self._client = client
        self._names = names
        self._key = key
        self._worker = worker
        self._epoch = epoch
        self._gateway_gone = gateway_gone
        self._gone_after_s = gone_after_s
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._gateways: dict[str, _Gateway] = {}
        self._outbox = _Outbox()
        self._connection: _Connection | None = None
        self._is_closing = False
        self._is_idle = False  # the thread rests for longer than a beat
        self._since_drain = 0
        self.dropped_frames = 0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def unanswered(self) -> int:
        """Frames and beats that Redis has not acknowledged yet."""
        return len(self._outbox.frames)

    def add_work(self, gateway: str) -> None:
        """Count one more request of the gateway: it gets beats while it has any."""
        with self._lock:
            self._gateway(gateway).work += 1
            self._stir()

    def remove_work(self, gateway: str) -> None:
        with self._lock:
            self._gateway(gateway).work -= 1

    def publish(self, gateway: str, entries: Sequence[FrameEntry]) -> None:
        """Send one frame. Never raises for Redis' sake and never waits for a reply. Raises `WireError` or
        `ValueError` for an entry that cannot be encoded; nothing has happened then."""
        with self._lock:
            state = self._gateway(gateway)
            frame = self._frame(state, state.seq + 1, tuple(entries))
            state.seq += 1
            state.last_frame_s = time.monotonic()
            self._add(frame)
            self._write()
            self._stir()
            if self._since_drain >= _DRAIN_EVERY:
                self._drain()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is left and read every reply: a connection closed with unread replies loses what it sent. One that
        is lost is made again while there is time."""
        with self._lock:
            self._is_closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        end_s = time.monotonic() + timeout_s
        while not self._flush(end_s) and time.monotonic() < end_s:
            if self._thread.is_alive() or not self._connect():
                time.sleep(_RETRY_S[0])
        with self._lock:
            if self._outbox.frames:
                log.warning("%d frames are lost at the end: Redis does not take them", len(self._outbox.frames))
            self._disconnect()

    def _flush(self, deadline_s: float) -> bool:
        """Whether Redis has answered everything."""
        with self._lock:
            try:
                self._write()
                while self._outbox.owed and self._connection is not None and time.monotonic() < deadline_s:
                    self._read_reply(self._connection)
            except _LOST as error:
                self._lost(error)
            return not self._outbox.frames

    # From here to `_run` everything is called with the lock held.

    def _stir(self) -> None:
        """There is something for the thread to do, which rests."""
        if self._is_idle:
            self._is_idle = False
            self._wake.notify()

    def _gateway(self, name: str) -> _Gateway:
        state = self._gateways.get(name)
        if state is None:
            channel = self._names.gateway_channel(name, self._key.host)
            state = self._gateways[name] = _Gateway(name, channel, self._key.seal(Purpose.FRAME, name))
        return state

    def _frame(self, state: _Gateway, seq: int, entries: tuple[FrameEntry, ...]) -> _Sent:
        data = state.seal.close(encode_frame(Frame(worker=self._worker, epoch=self._epoch, seq=seq, entries=entries)))
        publish = ("PUBLISH", state.channel, data)
        if not entries:
            return _Sent(state, (publish,), len(data))
        key = self._names.frame_log(self._worker, state.name)
        commands: list[tuple[object, ...]] = [
            ("XADD", key, "MAXLEN", "~", keys.LOG_MAXLEN, f"{seq}-0", "f", data),
            publish,
        ]
        if state.is_log_wrong:
            state.is_log_wrong, state.expires_set_s = False, 0.0
            commands.insert(0, ("DEL", key))
        now_s = time.monotonic()
        if now_s - state.expires_set_s > _EXPIRE_EVERY_S or seq == 1:
            state.expires_set_s = now_s
            commands.insert(-1, self._expiry(state))
        return _Sent(state, tuple(commands), len(data))

    def _add(self, sent: _Sent) -> None:
        box = self._outbox
        box.frames.append(sent)
        box.size_bytes += sent.size_bytes
        while len(box.frames) > UNACKED_FRAMES or box.size_bytes > UNACKED_BYTES:
            if box.written:
                self._disconnect()
            box.size_bytes -= box.frames.popleft().size_bytes
            self.dropped_frames += 1

    def _write(self) -> None:
        """Put every unwritten frame on the connection, when there is one."""
        connection, box = self._connection, self._outbox
        if connection is None or box.written == len(box.frames):
            return
        fresh = [box.frames[i] for i in range(box.written, len(box.frames))]
        try:
            packed = connection.pack_commands([command for sent in fresh for command in sent.commands])
            connection.send_packed_command(packed, check_health=False)
        except _LOST as error:
            self._lost(error)
            return
        for sent in fresh:
            box.owed.extend((str(command[0]), sent) for command in sent.commands)
        box.written += len(fresh)
        self._since_drain += len(fresh)

    def _drain(self) -> None:
        """Read the replies that have come."""
        self._since_drain = 0
        try:
            while self._outbox.owed and self._connection is not None and self._connection.can_read(timeout=0):
                self._read_reply(self._connection)
        except _LOST as error:
            self._lost(error)

    def _read_reply(self, connection: _Connection) -> None:
        reply: object
        try:
            reply = connection.read_response()
        except ResponseError as error:
            reply = error
        box = self._outbox
        command, sent = box.owed.popleft()
        if isinstance(reply, ResponseError):
            # XADD of a frame written a second time finds its id taken: the first one arrived after all.
            if command != "XADD" or "equal or smaller" not in str(reply):
                log.error("%s to gateway %s refused: %s", command, sent.gateway.name, reply)
            if command == "XADD" and str(reply).startswith("WRONGTYPE"):
                log.error(
                    "%s holds something else: it is removed", self._names.frame_log(self._worker, sent.gateway.name)
                )
                sent.gateway.is_log_wrong = True
        elif command == "PUBLISH" and isinstance(reply, int):
            self._note_receivers(sent.gateway, reply)
        if command == "PUBLISH":
            box.frames.popleft()
            box.written -= 1
            box.size_bytes -= sent.size_bytes
            if sent.logging is not None:
                box.ring.add(sent, sent.size_bytes, time.monotonic())

    def _note_receivers(self, gateway: _Gateway, receivers: int) -> None:
        """While this process itself stood still a gateway may have come back: a long gap counts as two beats."""
        now_s = time.monotonic()
        if receivers:
            gateway.silent_s, gateway.asked_s, gateway.is_reported = 0.0, 0.0, False
            return
        if gateway.asked_s:
            gateway.silent_s += min(now_s - gateway.asked_s, 2 * BEAT_S)
        gateway.asked_s = now_s

    def _lost(self, error: Exception) -> None:
        log.warning("connection to Redis lost, %d frames wait: %s", len(self._outbox.frames), error)
        self._disconnect()
        self._wake.notify()

    def _disconnect(self) -> None:
        """Forget the connection: everything unanswered is to be written again."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
        self._outbox.written = 0
        self._outbox.owed.clear()
        for gateway in self._gateways.values():
            gateway.silent_s = gateway.asked_s = 0.0

    def _run(self) -> None:
        retry_s = _RETRY_S[0]
        next_beat_s = 0.0
        while not self._is_closing:
            if self._connection is None:
                if not self._connect():
                    self._sleep(retry_s)
                    retry_s = min(retry_s * 2, _RETRY_S[1])
                    continue
                retry_s = _RETRY_S[0]
            now_s = time.monotonic()
            with self._lock:
                if now_s >= next_beat_s:
                    next_beat_s = now_s + BEAT_S
                    self._beat(now_s)
                self._drain()
                gone = self._gone()
            for gateway in gone:
                self._gateway_gone(gateway)
            self._rest(next_beat_s)

    def _rest(self, next_beat_s: float) -> None:
        """Until the next beat, or answers are to be read; long while nothing is owed to anybody."""
        with self._lock:
            now_s = time.monotonic()
            self._is_idle = not self._outbox.owed and not any(self._is_due(each, now_s) for each in self._known())
            rest_s = _ANSWER_S if self._outbox.owed else until_beat_s(_IDLE_S) if self._is_idle else next_beat_s - now_s
            if self._connection is not None and not self._is_closing and rest_s > 0:  # else there is work already
                self._wake.wait(rest_s)
            self._is_idle = False

    def _sleep(self, seconds: float) -> None:
        with self._lock:
            if not self._is_closing and seconds > 0:
                self._wake.wait(seconds)

    def _connect(self) -> bool:
        """On the publisher's thread and without the lock: it may take seconds and the engine must not wait."""
        pool = self._client.connection_pool
        connection: _Connection = pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": SEND_TIMEOUT_S})
        try:
            connection.connect()
        except (redis.RedisError, OSError) as error:
            log.debug("no Redis yet: %s", error)
            return False
        with self._lock:
            self._connection = connection
            self._log_again()
            self._write()
            self._send([(self._expiry(state), _Sent(state, (), 0)) for state in self._gateways.values() if state.seq])
        return True

    def _log_again(self) -> None:
        """What was acknowledged lately, for a Redis that came back empty."""
        recent = self._outbox.ring.recent(time.monotonic())
        self._send([(sent.logging, sent) for sent in recent if sent.logging is not None])

    def _send(self, commands: Sequence[tuple[tuple[object, ...], _Sent]]) -> None:
        """Write commands that no frame waits for."""
        connection = self._connection
        if connection is None or not commands:
            return
        try:
            packed = connection.pack_commands([command for command, _ in commands])
            connection.send_packed_command(packed, check_health=False)
        except _LOST as error:
            self._lost(error)
            return
        self._outbox.owed.extend((str(command[0]), sent) for command, sent in commands)

    def _expiry(self, state: _Gateway) -> tuple[object, ...]:
        return ("EXPIRE", self._names.frame_log(self._worker, state.name), keys.LOG_TTL_S)

    def _beat(self, now_s: float) -> None:
        for gateway in self._known():
            if self._is_due(gateway, now_s):
                self._add(self._frame(gateway, gateway.seq, ()))
        self._write()

    def _known(self) -> tuple[_Gateway, ...]:
        return tuple(self._gateways.values())

    def _is_due(self, gateway: _Gateway, now_s: float) -> bool:
        """Whether it gets beats."""
        return bool(gateway.work) or now_s - gateway.last_frame_s < LINGER_S

    def _gone(self) -> list[str]:
        gone = []
        for gateway in self._gateways.values():
            if gateway.silent_s >= self._gone_after_s and gateway.work and not gateway.is_reported:
                gateway.is_reported = True
                gone.append(gateway.name)
        return gone
