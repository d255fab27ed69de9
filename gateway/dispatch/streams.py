"""Frames in, events out: one subscription per gateway process, shared by all its requests.

Pub/sub loses messages silently when a connection breaks, so nothing here trusts it. Frames of one worker are
numbered; a hole is filled, in order, from the worker's short log before anything after it is passed on. A beat
repeats the last number each second, so that a lost last frame shows too. Entries are numbered per request as
well: what cannot be repaired fails the requests it belonged to and is never skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.presence import Presence, reason_of
from gateway.dispatch.tasks import cancel_all
from shared import wire
from shared.errors import GatewayError, WireError
from shared.keys import NO_HOST, Names, host_of
from shared.seal import HostKey, Keyring, Purpose, Seal
from shared.wire import Frame, FrameEntry

logger = logging.getLogger(__name__)

_RECONNECT_S = (0.02, 1.0)  # first and longest pause
_LOG_TIMEOUT_S = 5.0
_REPAIR_RETRY_S = (0.05, 0.2, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class _Source:
    """What was heard of one worker in one life. `pending` holds frames behind a hole while it is repaired."""

    worker: str
    epoch: str
    heard_s: float
    last_seq: int = 0
    pending: list[Frame] = field(default_factory=list)
    repair: asyncio.Task[None] | None = None


class FrameHub(Presence):
    """Listens on this gateway's channel and hands every request its events.

    `subscriber` must not time out reads and must not retry by itself: a reconnection has to be seen, because it
    means loss. `on_gap(was_repaired)` is called for every hole in a worker's numbers, `on_refused` for every frame, and
    every entry of one, that is not what its host may say.
    """

    def __init__(
        self,
        subscriber: redis.asyncio.Redis,
        broker: redis.asyncio.Redis,
        names: Names,
        keyring: Keyring,
        gateway_id: str,
        *,
        on_gap: Callable[[bool], None],
        on_refused: Callable[[], None],
    ) -> None:
        super().__init__()
        self.gateway_id = gateway_id
        self._names = names
        self._keyring = keyring
        self._on_refused = on_refused
        self._seals: dict[str, tuple[HostKey, Seal]] = {}
        self._hosts: set[str] = {NO_HOST}  # listened to; nobody speaks on the first, which shows the connection
        self._pubsub: Any = None
        self._subscriber = subscriber
        self._redis = broker
        self._on_gap = on_gap
        self._dispatches: dict[str, Dispatch] = {}
        self._sources: dict[str, _Source] = {}
        self._undelivered: deque[tuple[_Source, FrameEntry]] = deque()
        self._listening: asyncio.Task[None] | None = None
        self.silent: frozenset[str] = frozenset()  # workers that should have been heard, as the watchdog finds

    @property
    def dispatches(self) -> Mapping[str, Dispatch]:
        """The requests under way, by id."""
        return self._dispatches

    def unheard_s(self, worker: str) -> float:
        """Seconds since any frame or beat of this worker came; infinite when none ever did."""
        source = self._sources.get(worker)
        return float("inf") if source is None else time.monotonic() - source.heard_s

    def add(self, dispatch: Dispatch) -> None:
        """What comes for this request from now on is its own. Before it is submitted."""
        self._dispatches[dispatch.request_id] = dispatch

    def remove(self, dispatch: Dispatch) -> None:
        """Nobody reads this request any more."""
        del self._dispatches[dispatch.request_id]

    def fail_all(self, error: GatewayError) -> None:
        for dispatch in tuple(self._dispatches.values()):
            dispatch.fail(error)

    async def run(self) -> None:
        """Listen for ever, reconnecting."""
        pause_s, longest_s = _RECONNECT_S
        try:
            while True:
                self._listening = asyncio.create_task(self._listen())
                await asyncio.wait({self._listening})
                was_connected = self.is_connected
                self._note_away(self._listening)
                pause_s = _RECONNECT_S[0] if was_connected else min(longest_s, pause_s * 2)
                await asyncio.sleep(pause_s)
        finally:
            await self._stop()

    def reconnect(self) -> None:
        """Drop a subscription that is suspected of hearing nothing; `run` makes a new one."""
        if self._listening is not None:
            self._listening.cancel()

    async def _stop(self) -> None:
        tasks = [source.repair for source in self._sources.values()]
        await cancel_all([task for task in (*tasks, self._listening) if task is not None])

    async def _listen(self) -> None:
        pubsub = self._subscriber.pubsub()
        try:
            hosts = frozenset(self._hosts)
            await pubsub.subscribe(*map(self._channel, hosts))
            connection: Any = pubsub.connection
            self._pubsub = pubsub
            await self._subscribe(self._hosts - hosts)
            while True:
                # As `PubSub.get_message` reads, without what it does around each message.
                kind, channel, data = await connection.read_response(timeout=math.inf, push_request=True)
                host = channel.decode().rpartition(":")[2]
                if kind == b"message":
                    self.feed(host, data)
                elif kind == b"subscribe":
                    self._note_subscribed(host)
        finally:
            self._pubsub = None
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _channel(self, host: str) -> str:
        return self._names.gateway_channel(self.gateway_id, host)

    async def listen_to(self, hosts: Collection[str]) -> None:
        """Hear what these hosts say, too. Each has a channel of its own."""
        new = set(hosts) - self._hosts
        self._hosts |= new
        with contextlib.suppress(RedisError, OSError):  # whoever reads sees it, too, and subscribes to all anew
            await self._subscribe(new)

    async def _subscribe(self, hosts: Collection[str]) -> None:
        if hosts and self._pubsub is not None:
            await self._pubsub.subscribe(*map(self._channel, hosts))

    def _note_subscribed(self, host: str) -> None:
        if self._came():
            logger.info("listening for frames")
        for source in self._sources.values():
            if host_of(source.worker) == host:
                self._start_repair(source)

    def _note_away(self, listening: asyncio.Task[None]) -> None:
        error = None if listening.cancelled() else listening.exception()
        if error is not None and not isinstance(error, RedisError | OSError):
            raise error
        if self._went():
            logger.warning("the subscription broke: %s", reason_of(error) if error else "it is made anew")

    def feed(self, host: str, data: bytes) -> None:
        """One message of a host's channel."""
        frame = self._opened(host, data)
        if frame is None:
            return
        source = self._sources.get(frame.worker)
        if source is None or source.epoch != frame.epoch:
            source = _Source(frame.worker, frame.epoch, time.monotonic())
            self._sources[frame.worker] = source
        source.heard_s = time.monotonic()
        if source.repair is not None:
            source.pending.append(frame)
        elif frame.entries and frame.seq == source.last_seq + 1:
            self._deliver(source, frame)
        elif frame.seq > source.last_seq:
            source.pending.append(frame)
            self._start_repair(source)

    def _opened(self, host: str, data: bytes) -> Frame | None:
        """The frame, when the host says it, of one of its workers; counted and dropped otherwise."""
        try:
            frame = wire.decode_frame(self._seal(host).open(data))
            if host == NO_HOST or host_of(frame.worker) != host:
                raise WireError(f"host {host} speaks for worker {frame.worker}")
        except WireError as error:
            self._on_refused()
            logger.error("a frame of host %s is dropped: %s", host, error)  # noqa: TRY400 - the text says it all
            return None
        return frame

    def _seal(self, host: str) -> Seal:
        key = self._keyring.of(host)
        used, seal = self._seals.get(host, (None, None))
        if seal is None or used is not key:  # a host that was locked out has another key from then on
            seal = key.seal(Purpose.FRAME, self.gateway_id)
            self._seals[host] = (key, seal)
        return seal

    def _deliver(self, source: _Source, frame: Frame) -> None:
        """Pass a frame's entries on, after those of earlier frames: first to those who wait for their first token."""
        source.last_seq = frame.seq
        is_idle = not self._undelivered
        self._undelivered.extend((source, entry) for entry in sorted(frame.entries, key=self._has_tokens))
        if is_idle and self._undelivered:
            self._deliver_next()

    def _has_tokens(self, entry: FrameEntry) -> bool:
        dispatch = self._dispatches.get(entry.request_id)
        return dispatch is not None and dispatch.has_tokens

    def _deliver_next(self) -> None:
        """An entry for each turn of the event loop: the first need not wait until all are rendered, and a request that
        comes meanwhile waits for one at each of its steps (with eight it waited 1.5 ms longer beside 40 streams)."""
        source, entry = self._undelivered.popleft()
        dispatch = self._dispatches.get(entry.request_id)
        try:
            if dispatch is not None:
                self._tell(dispatch, entry, source)
        finally:  # a bug met by one entry is that of its request
            if self._undelivered:
                asyncio.get_running_loop().call_soon(self._deliver_next)

    def _tell(self, dispatch: Dispatch, entry: FrameEntry, source: _Source) -> None:
        """Hand the entry over, unless it comes from a host that was never given this request."""
        if dispatch.may_hear(entry, host_of(source.worker)):
            dispatch.take(entry, source.worker, source.epoch)
            return
        self._on_refused()
        logger.error("worker %s answers request %s of another host: dropped", source.worker, entry.request_id)

    def forget(self, worker: str) -> None:
        """A worker that is gone for good."""
        source = self._sources.pop(worker, None)
        if source is not None and source.repair is not None:
            source.repair.cancel()

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers that were ever heard and not forgotten."""
        return tuple(self._sources)

    async def read_to_end(self, worker: str, timeout_s: float) -> bool:
        """Pass on what the worker has logged and nobody here has heard; whether there was anything."""
        source = self._sources.get(worker)
        if source is None:
            return False
        before = source.last_seq
        self._start_repair(source)
        if source.repair is not None:
            await asyncio.wait({source.repair}, timeout=timeout_s)
        while self._undelivered:  # noqa: ASYNC110 - a few turns of the loop, in which they are delivered
            await asyncio.sleep(0)
        return source.last_seq > before

    def _start_repair(self, source: _Source) -> None:
        if source.repair is None:
            source.repair = asyncio.create_task(self._repair(source))

    async def _repair(self, source: _Source) -> None:
        """Fill the hole before each pending frame, then pass the frame on. Without one: see what else is logged."""
        try:
            if not source.pending:
                await self._replay(source, None)
            while source.pending:
                frame = source.pending[0]
                last_missing = frame.seq - 1 if frame.entries else frame.seq
                if last_missing > source.last_seq:
                    await self._replay(source, last_missing)
                source.pending.pop(0)
                if frame.entries and frame.seq > source.last_seq:
                    self._deliver(source, frame)
        finally:
            source.repair = None

    async def _replay(self, source: _Source, last_missing: int | None) -> None:
        """Deliver what the worker's log holds after `last_seq`, to its end or up to `last_missing`."""
        first = source.last_seq + 1
        rows = await self._read_log(source, first, last_missing)
        is_whole = True
        for seq, data in rows:
            frame = self._opened(host_of(source.worker), data)
            if frame is None or not self._is_logged(source, frame, seq):
                continue
            is_whole = is_whole and frame.seq == source.last_seq + 1
            self._deliver(source, frame)
        if last_missing is not None and source.last_seq < last_missing:
            is_whole = False
            source.last_seq = last_missing
        if rows or not is_whole:
            self._on_gap(is_whole)
            log = logger.info if is_whole else logger.error
            outcome = "repaired" if is_whole else "lost for good"
            log("frames %d to %d of worker %s: %s", first, source.last_seq, source.worker, outcome)

    def _is_logged(self, source: _Source, frame: Frame, seq: int) -> bool:
        """Whether the log may hold this frame under this number, after what was passed on: who writes to the log could
        move sealed frames, or put back old ones."""
        is_its_own = (frame.worker, frame.epoch, frame.seq) == (source.worker, source.epoch, seq)
        if is_its_own and seq > source.last_seq:
            return True
        self._on_refused()
        logger.error("entry %d in the log of worker %s holds another frame: dropped", seq, source.worker)
        return False

    async def _read_log(self, source: _Source, first: int, last: int | None) -> list[tuple[int, bytes]]:
        """The logged frames of these numbers with their numbers, oldest first; none when Redis stays away."""
        key = self._names.frame_log(source.worker, self.gateway_id)
        for pause_s in _REPAIR_RETRY_S:
            try:
                async with asyncio.timeout(_LOG_TIMEOUT_S):
                    rows: Any = await self._redis.xrange(key, f"{first}-0", "+" if last is None else f"{last}-0")
                return [(_seq_of(row), fields.get(b"f", b"")) for row, fields in rows]
            except (RedisError, OSError, TimeoutError) as error:
                logger.warning("the log of worker %s cannot be read: %s", source.worker, error)
            await asyncio.sleep(pause_s)
        return []


def _seq_of(row: bytes) -> int:
    """The number in a row's id, `<seq>-0`; 0 in what no worker of ours writes."""
    number, _, rest = row.partition(b"-")
    return int(number) if rest == b"0" else 0
