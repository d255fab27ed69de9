"""Keeps one model's worker process running, and says at any moment how that goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from shared.errors import WireError
from shared.log import last_lines, open_log
from shared.processes import GuardedProcess
from shared.registry import ModelRecord, ModelSpec, ModelState
from shared.restarts import Restarts
from worker.model_folder import made_at_s
from worker.status import EXIT_NO_REDIS, EXIT_STOPPED, Status, parse_status

logger = logging.getLogger(__name__)

_NO_REDIS_PAUSE_S = 3.0  # a worker has waited by itself before it gave up
_LONGEST_NAME = 100
_END_S = 4.0  # for a drained worker to give back what it still holds, and to end


class Bury(Protocol):
    """Free what a dead worker held (its jobs, its lease). Must not raise."""

    async def __call__(self, worker: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every supervisor of a host shares. `stamp` sums up the files of a source; it changes when they do."""

    host: str
    environment: Mapping[str, str]
    logs: Path
    bury: Bury
    changed: Callable[[], None]
    drain_s: float
    stamp: Callable[[str], object]


def log_name(model: str) -> str:
    """Of the log of a model's workers: short enough for any file system."""
    return f"worker-{re.sub(r'[^A-Za-z0-9._-]+', '-', model).strip('-')[:_LONGEST_NAME]}.log"


class ModelSupervisor:
    """One model of this host.

    available (waits to be asked for) -> loading -> ready -> loading again when the worker dies, after a pause that
    grows with every death. Too many deaths, or a model that says why it cannot be loaded: failed, until its files
    change. `record` is the state as the fleet sees it.
    """

    def __init__(self, spec: ModelSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self.worker = ""
        self.log = surroundings.logs / log_name(spec.id)
        self._surroundings = surroundings
        self._log_start = 0
        self._wanted = asyncio.Event()
        self._restarts = Restarts()
        self._process: GuardedProcess | None = None
        self._stamp = surroundings.stamp(spec.source)
        self._files_changed = asyncio.Event()
        self.record = self._new_record("loading" if spec.load == "start" else "available")

    def want(self) -> None:
        """Somebody asked for the model."""
        self._wanted.set()

    def look(self) -> None:
        """Notice whether the files of a model that failed have changed; called now and then."""
        if self.record.state == "failed" and self._surroundings.stamp(self.spec.source) != self._stamp:
            self._files_changed.set()

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
            self._became(self._new_record("loading"))
            self._stamp = self._surroundings.stamp(self.spec.source)
            last, status = await self._run_worker()
            if last.state == "failed":
                await self._wait_for_change(last.reason or "the model cannot be loaded")
            elif status == EXIT_STOPPED and last.state != "loading":
                logger.info("%s: its worker was stopped; starting a new one", self.spec.id)
            elif status == EXIT_NO_REDIS:
                await self._pause_without_redis()
            else:
                await self._pause_after_death(status)

    async def _run_worker(self) -> tuple[Status, int]:
        """One life of a worker: the last thing it said of itself, and its exit status."""
        last = Status(state="loading")
        process, descriptor = self._start()
        self._process = process
        async with _open_pipe(descriptor) as lines:
            try:
                while line := await lines.readline():
                    last = self._heard(line) or last
                return last, await process.ended()
            finally:
                await self._end(process)

    def _start(self) -> tuple[GuardedProcess, int]:
        reader, writer = os.pipe()
        spec = self.spec
        # -P: a folder of the person's own called `worker` is not ours.
        command = [sys.executable, "-P", "-m", "worker", "--model", spec.source, "--engine", spec.engine]
        command += [f"--name={spec.id}", f"--host={self._surroundings.host}"]  # one word: either may begin with a dash
        command += [word for key, value in spec.options.items() for word in ("--option", f"{key}={value}")]
        try:
            with open_log(self.log) as output:
                self._log_start = output.tell()
                process = GuardedProcess(
                    [*command, "--status-fd", str(writer)],
                    env=self._surroundings.environment,
                    output=output,
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
            self._became(replace(self.record, state="ready", load_done=1.0))
            logger.info("%s: ready", self.spec.id)
        return status

    async def _pause_without_redis(self) -> None:
        """No fault of the model's: it is loaded whenever Redis comes."""
        words = last_lines(self.log, since_byte=self._log_start)
        logger.warning(
            "%s: its worker found no Redis; trying again in %.0f s. %s", self.spec.id, _NO_REDIS_PAUSE_S, words
        )
        self._became(replace(self.record, state="loading", load_done=0.0))
        await asyncio.sleep(_NO_REDIS_PAUSE_S)

    async def _pause_after_death(self, status: int) -> None:
        delay_s = self._restarts.delay_s(time.monotonic())
        words = last_lines(self.log, since_byte=self._log_start)
        if self._restarts.exhausted:
            reason = f"its worker died {self._restarts.limit} times within a minute ({_describe(status)}): {words}"
            await self._wait_for_change(reason)
            return
        logger.error("%s: worker died (%s); next start in %.2f s. %s", self.spec.id, _describe(status), delay_s, words)
        self._became(replace(self.record, state="loading", load_done=0.0))
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
        return ModelRecord(id=spec.id, state=state, source=spec.source, made_at_s=made_at_s(spec.source))

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
