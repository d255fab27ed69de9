"""Runs what waits in batches, a few items at a time, each as the request that it is.

Of all gateways beside one ledger, one runs: the one that holds the lock on its file, which the system takes back
however that one ends. What was running then waits again. An item ends with its answer, or with an error that is no
passing one; while workers, Redis or hosts are away it is tried again until its batch runs out of time. Where a key has
used what it may, its batches wait until it may again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from gateway.batches.ledger import Ledger
from gateway.batches.store import BatchStore
from gateway.dialects.batch_values import Batch, Ended, StoredFile, Task
from gateway.dispatch.tasks import cancel_all
from shared.beats import until_beat_s
from shared.errors import GatewayError, QuotaSpentError, RateLimitedError, WorkerLostError

logger = logging.getLogger(__name__)

AT_ONCE: Final = 8
_MOST_TRIES: Final = 5  # of what workers were lost over
_TICK_S: Final = 2.0
_PAUSE_S: Final = 1.0  # before what failed for a passing reason is tried again, where nothing better is known
_LONGEST_PAUSE_S: Final = 30.0
_LONGEST_QUOTA_PAUSE_S: Final = 300.0  # a quota may be raised meanwhile
_MOST_DELAYED: Final = 32  # items of one batch; then all of it waits for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An HTTP answer: its body is JSON. `error` is why it is one, where it is."""

    status: int
    request_id: str
    body: bytes
    error: GatewayError | None = None


class Ways(Protocol):
    """What a runner cannot do itself."""

    async def answer(self, task: Task) -> Answered:
        """The answer to the item's request, by the way that every request goes."""

    def results(self, ledger: Ledger, batch: Batch) -> dict[str, tuple[StoredFile, bytes]]:
        """The files that a batch ends with: its `output`, its `error`s, where there are any."""


class BatchRunner:
    def __init__(self, store: BatchStore, ways: Ways) -> None:
        self._store = store
        self._ways = ways
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tenants: dict[tuple[str, int], str] = {}  # whose is what runs
        self._quota_from_s: dict[str, float] = {}  # batches whose key may ask no more until then
        self._not_before_s: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Until cancelled; what runs then waits again. Where nobody ever asked for a batch, nothing is written."""
        while not self._store.path.exists():
            await self._wait(until_beat_s(_TICK_S))
        async with _held(self._store.path.with_suffix(".lock")):
            try:
                while True:
                    try:
                        await self._advance()
                    except GatewayError as error:  # the disk may be full for a while
                        logger.warning("batches wait: %s", error)
                    await self._wait(self._pause_s())
            finally:
                await cancel_all(self._running.values())

    async def _wait(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._store.woken.wait()
        self._store.woken.clear()

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        due_s = (*self._not_before_s.values(), *self._quota_from_s.values())
        return max(0.05, min([_TICK_S, *(each - now_s for each in due_s)]))

    async def _advance(self) -> None:
        store = self._store
        await store.call(Ledger.expire, time.time())
        await self._drop_unwanted()
        for batch in await store.call(Ledger.complete):
            await store.call(self._close, batch, time.time())  # not before it was cancelled
            logger.info("batch %s has ended: %s", batch.id, dict(batch.counts))
        self._forget_pauses()
        free = AT_ONCE - len(self._running)
        if free > 0:
            besides = [*self._running, *self._not_before_s]
            running = list(self._tenants.values())
            for task in await store.call(Ledger.waiting, free, besides, paused=self._paused(), running=running):
                self._tenants[task.key] = task.tenant
                self._running[task.key] = asyncio.create_task(self._do(task))

    def _paused(self) -> set[str]:
        """Batches of which nothing is begun."""
        delayed = Counter(batch for batch, _ in self._not_before_s)
        return {batch for batch, count in delayed.items() if count >= _MOST_DELAYED} | set(self._quota_from_s)

    def _close(self, ledger: Ledger, batch: Batch, now_s: float) -> None:
        ledger.close_batch(batch, now_s, self._ways.results(ledger, batch))

    async def _drop_unwanted(self) -> None:
        """What was cancelled, or ran out of time, while it ran."""
        wanted = await self._store.call(Ledger.are_waiting, list(self._running))
        await cancel_all([task for key, task in self._running.items() if key not in wanted])

    def _forget_pauses(self) -> None:
        now_s = time.monotonic()
        self._not_before_s = {key: due_s for key, due_s in self._not_before_s.items() if due_s > now_s}
        self._quota_from_s = {batch: due_s for batch, due_s in self._quota_from_s.items() if due_s > now_s}

    async def _do(self, task: Task) -> None:
        try:
            await self._settle(task)
        except GatewayError as error:
            logger.warning("item %d of %s waits: %s", task.number, task.batch, error)
            self._delay(task, _LONGEST_PAUSE_S)
        except Exception:  # any bug on the way: others are done all the same, and this one is tried again
            logger.exception("item %d of %s", task.number, task.batch)
            self._delay(task, _LONGEST_PAUSE_S)
        finally:
            self._running.pop(task.key, None)
            self._tenants.pop(task.key, None)
            self._store.woken.set()

    def _delay(self, task: Task, pause_s: float) -> None:
        self._not_before_s[task.key] = time.monotonic() + pause_s

    async def _settle(self, task: Task) -> None:
        answered = await self._ways.answer(task)
        error = answered.error
        if isinstance(error, RateLimitedError | QuotaSpentError):
            pause_s = min(max(error.retry_after_s or _PAUSE_S, _PAUSE_S), _LONGEST_QUOTA_PAUSE_S)
            self._quota_from_s[task.batch] = time.monotonic() + pause_s
            return
        if isinstance(error, WorkerLostError):
            await self._store.call(Ledger.note_try, task)
        if error is not None and error.retryable and not _is_hopeless(task, error):
            self._delay(task, min(max(error.retry_after_s or _PAUSE_S, _PAUSE_S), _LONGEST_PAUSE_S))
            return
        ended = Ended(
            custom_id="",
            outcome="succeeded" if error is None else "errored",
            status=answered.status,
            request_id=answered.request_id,
            answer=answered.body,
        )
        await self._store.call(Ledger.end, task, ended)


def _is_hopeless(task: Task, error: GatewayError) -> bool:
    """It may be what ends the workers."""
    return isinstance(error, WorkerLostError) and task.tries + 1 >= _MOST_TRIES


@contextlib.asynccontextmanager
async def _held(path: Path) -> AsyncIterator[None]:
    """The lock on a file, once nobody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                await asyncio.sleep(_TICK_S)
        yield
