"""A worker's sign of life, renewed by a thread of its own so that a long engine step does not end it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

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


class LeaseKeeper:
    """Writes what `describe` says every `keys.LEASE_EVERY_S`, and soon after `renew`, with the prefixes that need not
    be computed (`residents`). `held_jobs` are those that the lease counts: what is noted of them as placed goes in the
    same write. Who is silent for `execution_ttl_s` has lost its jobs, so that no lease lasts longer."""

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
        try:
            self._write()
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            self._heal()
            self._written = 0
            self._write()

    def _heal(self) -> None:
        lease = self._describe()
        kinds = {self._names.lease(lease.worker): "string", self._names.workers: "set"}
        kinds[self._names.placed(lease.worker)] = "hash"
        heal(self._client, kinds | dict.fromkeys(self._residency_of(lease).keys, "zset"))

    def _write(self) -> None:
        jobs = self._uncounted = [*self._uncounted, *self._held_jobs()]  # first: the lease counts all of these
        lease = self._describe()
        name = self._names.lease(lease.worker)
        residency = self._residency_of(lease)
        with self._client.pipeline(transaction=bool(jobs)) as pipe:
            pipe.set(name, self._key.seal(Purpose.LEASE, lease.worker).close(encode(lease)), px=self._ttl_ms, get=True)
            if self._is_to_be_named():
                pipe.sadd(self._names.workers, lease.worker)
            if jobs:
                pipe.hdel(self._names.placed(lease.worker), *jobs)
            residency.queue(pipe, self._residents())
            try:
                before, *replies = pipe.execute()
                residency.note(replies)
                self._uncounted = []
                self._note_written(before)
            except OutOfMemoryError:
                residency.forget()
                if not self._client.pexpire(name, self._ttl_ms):
                    raise
            except redis.RedisError:
                residency.forget()
                raise

    def _is_to_be_named(self) -> bool:
        return self._written % _NAMED_EVERY == 0

    def _note_written(self, before: bytes | None) -> None:
        """`before` is the lease that lay there: without one Redis was emptied, or we were away for too long."""
        is_lost = before is None and not self._is_to_be_named()
        self._written += 1
        if is_lost:
            assert self._residency is not None
            self._residency.forget()
            self._written = 0
            self._write()

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
        while not self._stopping.is_set():
            self._nudge.clear()
            try:
                self.write()
            except redis.RedisError as error:
                if not self._is_away:
                    log.warning("the lease cannot be renewed: %s", error)
                self._is_away = True
            else:
                self._is_away = False
            self._rest(time.monotonic())

    def _rest(self, written_s: float) -> None:
        """Until the next lease is due, or something has changed: one waking where nothing has."""
        if self._nudge.wait(until_beat_s(keys.LEASE_EVERY_S)):
            self._stopping.wait(max(0.0, written_s + _REST_S - time.monotonic()))
