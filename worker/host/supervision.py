"""Keeps one model's worker process running, and says at any moment how that goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, get_args

from shared.errors import NoMemoryError, WireError
from shared.log import last_lines, log_size
from shared.options import option_text
from shared.processes import GuardedProcess
from shared.registry import ENGINES_IN_MEMORY, ModelRecord, ModelSpec, ModelState, RestartCause
from shared.restarts import Restarts
from worker.model_folder import made_at_s
from worker.status import EXIT_NO_REDIS, EXIT_STALLED, EXIT_STOPPED, SIGNAL_UNLOAD, Status, parse_status

logger = logging.getLogger(__name__)

_NO_REDIS_PAUSE_S = 3.0  # a worker has waited by itself before it gave up
_LONGEST_NAME = 100
_END_S = 4.0  # for a drained worker to give back what it still holds, and to end


class Bury(Protocol):
    """Free what a dead worker held (its jobs, its lease). Must not raise."""

    async def __call__(self, worker: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every supervisor of a host shares. `environment` is that of a worker which starts now. `stamp` sums up the
    files of a source; it changes when they do. Whoever starts a worker that must ask for memory holds the `entrance`
    until it has it, so that of two that start together the one that stands first in the settings comes first."""

    host: str
    environment: Callable[[], Mapping[str, str]]
    logs: Path
    bury: Bury
    changed: Callable[[], None]
    drain_s: float
    stamp: Callable[[str], object]
    entrance: asyncio.Lock


def log_name(model: str) -> str:
    """Of the log of a model's workers: short enough for any file system."""
    return f"worker-{re.sub(r'[^A-Za-z0-9._-]+', '-', model).strip('-')[:_LONGEST_NAME]}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How a model that is ready is used. `idle_since_s` is on the monotonic clock, None while it is at work."""

    idle_since_s: float | None
    has_served: bool = False


class ModelSupervisor:
    """One model of this host.

    available (waits to be asked for) -> loading -> ready -> loading again when the worker dies, after a pause that
    grows with every death. Too many deaths, or a model that says why it cannot be loaded: failed, until its files
    change. Without memory for it: no_memory, and when it is unloaded: unloaded, until it is wanted (again). `record` is
    the state as the fleet sees it, `use` how it is used while it is ready, `asked_s` when somebody asked for it last,
    and `asked_since_s` when that began, for as long as it is not had.
    """

    def __init__(self, spec: ModelSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self.worker = ""
        self.log = surroundings.logs / log_name(spec.id)
        self._surroundings = surroundings
        self._log_start = 0
        self._wanted = asyncio.Event()
        self._restarts = Restarts()
        self._deaths: dict[str, int] = dict.fromkeys(get_args(RestartCause), 0)
        self._process: GuardedProcess | None = None
        self._stamp = surroundings.stamp(spec.source)
        self._files_changed = asyncio.Event()
        self.use: Use | None = None
        self.is_unloading = False
        self.load_s = self._started_s = 0.0
        self.needed_bytes = 0  # known once it was loaded, or refused for want of memory
        self.asked_s = -math.inf
        self.asked_since_s = math.inf
        self.record = self._new_record("loading" if spec.load == "start" else "available")

    def ask(self) -> None:
        """Somebody asked for the model. One without memory waits until there is some."""
        self.asked_s = time.monotonic()
        self.asked_since_s = min(self.asked_since_s, self.asked_s)
        if self.record.state != "no_memory":
            self.want()

    def want(self) -> None:
        """Load the model, unless it is loaded already; when it is just being unloaded, after that."""
        if self.is_unloading or self.record.state in ("available", "unloaded", "no_memory"):
            self._wanted.set()

    def unload(self) -> None:
        """Let the worker finish what it holds, and rest until the model is wanted."""
        if self.is_unloading or self.record.state in ("available", "unloaded", "failed"):
            return
        if self.record.state == "no_memory":
            self._became(self._new_record("unloaded"))
            return
        self.is_unloading = True
        self._wanted.clear()
        if self._process is not None and self.record.state == "loading":
            self._process.kill()
        elif self._process is not None and self._process.pid and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, SIGNAL_UNLOAD)

    def follow(self, spec: ModelSpec) -> bool:
        """Serve by another entry of the settings from now on. False when that takes another worker."""
        mine = self.spec
        same = replace(
            spec, keep_alive_s=mine.keep_alive_s, is_pinned=mine.is_pinned, hosts=mine.hosts, copies=mine.copies
        )
        if same != mine:
            return False
        self.spec = spec
        self._became(replace(self.record, is_pinned=spec.is_pinned, copies=spec.copies))
        return True

    def note_free(self, free_bytes: int) -> None:
        """What other models leave to one that has no memory."""
        self._became(replace(self.record, free_bytes=free_bytes))

    def look(self) -> None:
        """Notice whether the files of a model that was not loaded have changed; called now and then."""
        has_failed = self.record.state in ("failed", "no_memory")
        if has_failed and self._surroundings.stamp(self.spec.source) != self._stamp:
            self._files_changed.set()
            self.want()

    @property
    def told(self) -> ModelRecord:
        """The record, with the memory that the model takes, wherever that is known."""
        return replace(self.record, needed_bytes=self.record.needed_bytes or self.needed_bytes)

    @property
    def pid(self) -> int:
        """Of the worker; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def kill(self) -> None:
        """End the worker at once."""
        if self._process is not None:
            self._process.kill()

    async def run(self) -> None:
        """Until cancelled; the worker is ended then."""
        if self.spec.load == "on-demand":
            await self._wanted.wait()
        while True:
            self._wanted.clear()
            self._became(self._new_record("loading"))
            self._stamp = self._surroundings.stamp(self.spec.source)
            last, status = await self._run_worker()
            self.use = None
            if not self.is_unloading:
                await self._pause(last, status)
            if self.is_unloading:
                self.is_unloading = False
                await self._rest(self._new_record("unloaded"))

    async def _pause(self, last: Status, status: int) -> None:
        """Until the next life of a worker may begin."""
        if last.state == "failed" and last.code == NoMemoryError.code:
            await self._rest_without_memory(last)
        elif last.state == "failed":
            await self._wait_for_change(last.reason or "the model cannot be loaded")
        elif status == EXIT_STOPPED and last.state != "loading":
            logger.info("%s: its worker was stopped; starting a new one", self.spec.id)
        elif status == EXIT_NO_REDIS:
            await self._pause_without_redis()
        else:
            await self._pause_after_death(status)

    async def _rest(self, record: ModelRecord) -> None:
        self._became(record)
        await self._wanted.wait()

    async def _rest_without_memory(self, refusal: Status) -> None:
        logger.warning("%s has no memory: %s", self.spec.id, refusal.reason)
        self.needed_bytes = refusal.needed_bytes
        record = replace(
            self._new_record("no_memory"),
            reason=refusal.reason,
            needed_bytes=refusal.needed_bytes,
            free_bytes=refusal.free_bytes,
            limit_bytes=refusal.limit_bytes,
        )
        await self._rest(record)

    async def _run_worker(self) -> tuple[Status, int]:
        """One life of a worker: the last thing it said of itself, and its exit status."""
        last = Status(state="loading")
        async with contextlib.AsyncExitStack() as entrance:
            if self.spec.engine in ENGINES_IN_MEMORY:
                await entrance.enter_async_context(self._surroundings.entrance)
            if self.is_unloading:
                return last, EXIT_STOPPED
            process, descriptor = self._start()
            self._process = process
            async with _open_pipe(descriptor) as lines:
                try:
                    while line := await lines.readline():
                        last = self._heard(line) or last
                        if last.has_room or last.state != "loading":
                            await entrance.aclose()
                    return last, await process.ended()
                finally:
                    await self._end(process)

    def _start(self) -> tuple[GuardedProcess, int]:
        self._started_s = time.monotonic()
        reader, writer = os.pipe()
        spec = self.spec
        # -P: a folder of the person's own called `worker` is not ours.
        command = [sys.executable, "-P", "-m", "worker", "--model", spec.source, "--engine", spec.engine]
        command += [f"--name={spec.id}", f"--host={self._surroundings.host}"]  # one word: either may begin with a dash
        command += [word for key, value in spec.options.items() for word in ("--option", f"{key}={option_text(value)}")]
        try:
            self._log_start = log_size(self.log)
            process = GuardedProcess(
                [*command, "--status-fd", str(writer)],
                env=self._surroundings.environment(),
                log=self.log,
                pass_fds=[writer],
                grace_s=self._surroundings.drain_s + _END_S,
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        logger.info("%s: worker process %d started, its log is %s", spec.id, process.pid, self.log)
        return process, reader

    async def _end(self, process: GuardedProcess) -> None:
        """The process is over when this returns, and what it held is free."""
        if process.poll() is None:
            if self.record.state == "loading":  # it holds nothing, and a load cannot be interrupted
                process.kill()
            process.terminate()
            try:
                async with asyncio.timeout(process.grace_s):
                    await process.ended()
            except TimeoutError:
                logger.warning("%s: its worker did not stop within %.0f s; killed", self.spec.id, process.grace_s)
                process.kill()
                await process.ended()
        self._process = None
        if self.worker:
            worker, self.worker = self.worker, ""
            await self._surroundings.bury(worker)

    def _heard(self, line: bytes) -> Status | None:
        try:
            status = parse_status(line)
        except WireError as error:
            logger.warning("%s: its worker said %r: %s", self.spec.id, line[:200], error)
            return None
        self.worker = status.worker or self.worker
        if status.state == "loading":
            self._became(replace(self.record, state="loading", load_done=status.done))
        elif status.state == "ready":
            self._note_use(status)
        return status

    def _note_use(self, status: Status) -> None:
        if self.use is None:
            logger.info("%s: ready", self.spec.id)
            self.load_s = time.monotonic() - self._started_s
            self._became(replace(self.record, state="ready", load_done=1.0, load_s=self.load_s))
            self.asked_since_s = math.inf
        is_at_work = status.in_flight > 0
        has_served = is_at_work or (self.use is not None and self.use.has_served)
        self.use = Use(idle_since_s=None if is_at_work else time.monotonic(), has_served=has_served)

    async def _pause_without_redis(self) -> None:
        """No fault of the model's: it is loaded whenever Redis comes."""
        words = last_lines(self.log, since_byte=self._log_start)
        logger.warning(
            "%s: its worker found no Redis; trying again in %.0f s. %s", self.spec.id, _NO_REDIS_PAUSE_S, words
        )
        self._became(replace(self.record, state="loading", load_done=0.0))
        await asyncio.sleep(_NO_REDIS_PAUSE_S)

    async def _pause_after_death(self, status: int) -> None:
        cause: RestartCause = "stall" if status == EXIT_STALLED else "crash"
        self._deaths[cause] += 1
        delay_s = self._restarts.delay_s(time.monotonic())
        words = last_lines(self.log, since_byte=self._log_start)
        if self._restarts.exhausted:
            reason = f"its worker died {self._restarts.limit} times within a minute ({_describe(status)}): {words}"
            await self._wait_for_change(reason)
            return
        logger.error("%s: worker died (%s); next start in %.2f s. %s", self.spec.id, _describe(status), delay_s, words)
        self._became(replace(self.record, state="loading", load_done=0.0, restarts=dict(self._deaths)))
        await asyncio.sleep(delay_s)

    async def _wait_for_change(self, reason: str) -> None:
        """Starting again would fail again, until the model's files are others than they were."""
        logger.error("%s failed: %s", self.spec.id, reason)
        self._became(replace(self.record, state="failed", reason=reason, load_done=0.0))
        self._files_changed.clear()
        await self._files_changed.wait()
        logger.info("%s: %s changed; loading it again", self.spec.id, self.spec.source)
        self._restarts.forget()

    def _new_record(self, state: ModelState) -> ModelRecord:
        spec = self.spec
        return ModelRecord(
            id=spec.id,
            state=state,
            source=spec.source,
            made_at_s=made_at_s(spec.source),
            is_pinned=spec.is_pinned,
            copies=spec.copies,
            load_s=self.load_s,
            restarts=dict(self._deaths),
        )

    def _became(self, record: ModelRecord) -> None:
        if record != self.record:
            self.record = record
            self._surroundings.changed()


def _describe(status: int) -> str:
    return f"signal {status - 128}" if status > 128 else f"exit status {status}"


@contextlib.asynccontextmanager
async def _open_pipe(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """The reading end of a pipe, closed at the end."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        yield reader
    finally:
        transport.close()
