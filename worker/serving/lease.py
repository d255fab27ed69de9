"""A worker's sign of life. While nothing runs it goes along with the worker's beat, one round trip for both; else, and
where no beat comes, a thread of its own renews it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import redis
from redis.exceptions import OutOfMemoryError

from shared import keys
from shared.beats import until_beat_s
from shared.healing import heal, is_wrong_type
from shared.keys import Names, host_of
from shared.registry import WorkerLease
from shared.seal import HostKey, Purpose
from shared.wire import encode
from worker.prefix_cache.marks import NOBODY, Residents
from worker.serving.residency import Residency

log = logging.getLogger(__name__)

_REST_S = 0.1  # between two leases, however much changes
_NAMED_EVERY = 5  # leases: in the set of all workers, where who lives may only be missed when somebody took it away
_LEAST_TTL_S = 2 * keys.LEASE_EVERY_S
_SPARE_S = 0.95 * keys.LEASE_EVERY_S  # before a lease would end, in which its thread renews it where nobody else did


class Asked(Protocol):
    """What is asked in the round trip of a lease."""

    def ask(self, pipe: Any) -> None:
        """Queue one command."""

    def hear(self, reply: Any) -> None:
        """What it gave, which may be a `RedisError`."""


class LeaseKeeper:
    """Writes what `describe` says soon after `renew` and with each `write_beside`, with the prefixes that need not be
    computed (`residents`). Whoever begins to beat does one of these every `keys.LEASE_EVERY_S`; where that stops, the
    thread renews what would end. `held_jobs` are those that the lease counts: what is noted of them as placed goes in
    the same write. Who is silent for `execution_ttl_s` has lost its jobs, so that no lease lasts longer."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        key: HostKey,
        describe: Callable[[], WorkerLease],
        *,
        execution_ttl_s: float,
        residents: Callable[[], Residents] = lambda: NOBODY,
        held_jobs: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._client = client
        self._names = names
        self._key = key
        self._describe = describe
        self._residents = residents
        self._held_jobs = held_jobs
        self._residency: Residency | None = None
        self._uncounted: list[str] = []
        self._ttl_ms = round(1000 * max(_LEAST_TTL_S, min(keys.LEASE_TTL_S, execution_ttl_s)))
        self._written = 0
        self._written_s = 0.0
        self._writing = threading.RLock()  # one at a time, so that none is overwritten by an older one
        self._nudge = threading.Event()
        self._stopping = threading.Event()
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def renew(self) -> None:
        """Write again soon, because something changed."""
        self._nudge.set()

    def write(self) -> None:
        """Write now, on this thread. Raises `redis.RedisError`. Where Redis is full, the lease that it has is made to
        last: that takes no memory, and who lives must not look dead for want of it. Keys that hold something else are
        made anew."""
        with self._writing:
            try:
                self._write()
            except redis.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                self._heal()
                self._written = 0
                self._write()

    def write_beside(self, asked: Sequence[Asked]) -> None:
        """Ask, and write in the same round trip; what is wrong with the lease alone is the thread's affair. Raises
        `redis.RedisError` where nothing could be asked."""
        with self._writing, self._client.pipeline(transaction=False) as pipe:
            self._queue(pipe, self._describe())
            for each in asked:
                each.ask(pipe)
            try:
                replies = pipe.execute(raise_on_error=False)
                for each in reversed(asked):
                    each.hear(replies.pop())
                self._heard(replies)
            except redis.RedisError:
                self._forget()
                raise

    def _heard(self, replies: Sequence[Any]) -> None:
        if any(isinstance(reply, redis.RedisError) for reply in replies):
            self._forget()
            self.renew()
        else:
            self._note(replies)

    def _heal(self) -> None:
        lease = self._describe()
        kinds = {self._names.lease(lease.worker): "string", self._names.workers: "set"}
        kinds[self._names.placed(lease.worker)] = "hash"
        heal(self._client, kinds | dict.fromkeys(self._residency_of(lease).keys, "zset"))

    def _write(self) -> None:
        jobs = self._uncounted = [*self._uncounted, *self._held_jobs()]  # first: the lease counts all of these
        lease = self._describe()
        with self._client.pipeline(transaction=bool(jobs)) as pipe:
            self._queue(pipe, lease, jobs)
            try:
                self._note(pipe.execute())
                self._uncounted = []
            except OutOfMemoryError:
                self._forget()
                if not self._client.pexpire(self._names.lease(lease.worker), self._ttl_ms):
                    raise
            except redis.RedisError:
                self._forget()
                raise

    def _queue(self, pipe: Any, lease: WorkerLease, jobs: Sequence[str] = ()) -> None:
        data = self._key.seal(Purpose.LEASE, lease.worker).close(encode(lease))
        pipe.set(self._names.lease(lease.worker), data, px=self._ttl_ms, get=True)
        if self._is_to_be_named():
            pipe.sadd(self._names.workers, lease.worker)
        if jobs:
            pipe.hdel(self._names.placed(lease.worker), *jobs)
        self._residency_of(lease).queue(pipe, self._residents())

    def _is_to_be_named(self) -> bool:
        return self._written % _NAMED_EVERY == 0

    def _note(self, replies: Sequence[Any]) -> None:
        """The first is the lease that lay there: without one Redis was emptied, or we were away for too long."""
        before, *others = replies
        assert self._residency is not None
        self._residency.note(others)
        is_lost = before is None and not self._is_to_be_named()
        self._written += 1
        self._written_s = time.monotonic()
        if is_lost:
            self._forget()
            self._written = 0
            self._write()

    def _forget(self) -> None:
        """It is not known which prefixes were told."""
        if self._residency is not None:
            self._residency.forget()

    def _residency_of(self, lease: WorkerLease) -> Residency:
        if self._residency is None:
            host = host_of(lease.worker)
            self._residency = Residency(self._names, worker=lease.worker, host=host, model=lease.model)
        return self._residency

    def release(self) -> None:
        """End the lease: this worker holds nothing any more. Raises `redis.RedisError`."""
        self._stopping.set()
        self._nudge.set()
        if self._thread.is_alive():
            self._thread.join(keys.LEASE_EVERY_S)
        lease = self._describe()
        worker = lease.worker
        with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(self._names.lease(worker), self._names.placed(worker))
            self._residency_of(lease).queue_end(pipe)
            pipe.srem(self._names.workers, worker)
            pipe.execute()

    def _run(self) -> None:
        tried_s = 0.0
        while not self._stopping.is_set():
            if self._nudge.is_set() or not self._rest_s():
                self._nudge.clear()
                self._renew()
                tried_s = time.monotonic()
            if self._nudge.wait(self._rest_s() or until_beat_s(keys.LEASE_EVERY_S)):
                self._stopping.wait(max(0.0, tried_s + _REST_S - time.monotonic()))

    def _rest_s(self) -> float:
        """Until the lease should be renewed here, where nobody else does it."""
        return max(0.0, self._written_s + self._ttl_ms / 1000 - _SPARE_S - time.monotonic())

    def _renew(self) -> None:
        try:
            self.write()
        except redis.RedisError as error:
            if not self._is_away:
                log.warning("the lease cannot be renewed: %s", error)
            self._is_away = True
        else:
            self._is_away = False
