"""What a worker tells the process that started it: lines of JSON on an inherited descriptor, then an exit code.

    {"state": "loading", "done": 0.4}
    {"state": "loading", "has_room": true}
    {"state": "ready", "worker": "tiny.mac-mini.9f2c"}
    {"state": "ready", "in_flight": 1}
    {"state": "failed", "reason": "no config.json in …", "code": "model_unavailable"}
    {"state": "failed", "reason": "…", "code": "no_memory", "needed_bytes": 9, "free_bytes": 3, "limit_bytes": 12}
    {"state": "draining" | "stalled"}

A supervisor passes the write end's number with `--status-fd` and parses lines with `parse_status`. It should also
give the worker a pipe as stdin: the worker ends itself when that pipe closes, so that no orphan survives.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal

import orjson

from shared.beats import until_beat_s
from shared.errors import GatewayError, NoMemoryError, WireError

log = logging.getLogger(__name__)

EXIT_STOPPED = 0  # asked to stop
EXIT_BROKEN = 1  # our fault; the log has the traceback
EXIT_LOAD_FAILED = 3  # the model cannot be loaded: starting again will not help until something changes
EXIT_ENGINE_BROKEN = 4  # an exception out of `Engine.step`
EXIT_STALLED = 5  # the engine had work and made no progress for `Settings.stall_s`
EXIT_ORPHANED = 6  # the supervisor is gone
EXIT_NO_REDIS = 7

SIGNAL_UNLOAD = signal.SIGUSR1  # to the worker: end when nothing runs any more, and take nothing new

State = Literal["loading", "ready", "draining", "stalled", "failed"]
_STATES = ("loading", "ready", "draining", "stalled", "failed")
_MAX_REASON = 2000  # characters: for people to read, and a line is one that asyncio's readers take
_PARENT_CHECK_S = 0.5
_TOLD_CHECK_S = 5.0  # where the kernel tells of its end
_PIPED_CHECK_S = 5.0  # the pipe's end is heard at once: this is for a pipe that somebody else has got hold of


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`done` is 0..1 while loading, and `has_room` once the memory for the model is the worker's. When it is ready,
    `in_flight` counts what it has taken and has not ended, told when that begins and ends. `reason` and `code` (see
    `shared.errors`) say why it failed, the numbers of bytes what was missing (see `NoMemoryError`)."""

    state: State
    done: float = 0.0
    reason: str = ""
    code: str = ""
    worker: str = ""
    has_room: bool = False
    in_flight: int = 0
    needed_bytes: int = 0
    free_bytes: int = 0
    limit_bytes: int = 0


_FIELDS = tuple(field.name for field in fields(Status))


def failed_status(error: GatewayError) -> Status:
    """Why a model cannot be loaded."""
    status = Status(state="failed", reason=error.message, code=error.code)
    if not isinstance(error, NoMemoryError):
        return status
    needed, free, limit = (int(error.details[name]) for name in ("needed_bytes", "free_bytes", "limit_bytes"))
    return replace(status, needed_bytes=needed, free_bytes=free, limit_bytes=limit)


def parse_status(line: bytes) -> Status:
    """One line of the status pipe. Raises `WireError` for anything else."""
    try:
        value = orjson.loads(line)
        status = Status(**value)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise WireError(f"not a worker status: {error}") from error
    if status.state not in _STATES:
        raise WireError(f"unknown worker state {status.state!r}")
    return status


class StatusPipe:
    """The worker's end. Without a descriptor every call does nothing (a worker started by hand)."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def send(self, status: Status) -> None:
        """Write one line, with the beginning of a long reason (mlx-lm lists every tensor that does not fit). A
        supervisor that is gone is not an error here: `watch_parent` notices it."""
        if self._descriptor is None:
            return
        if len(status.reason) > _MAX_REASON:
            status = replace(status, reason=f"{status.reason[:_MAX_REASON]}… (the worker's log has the rest)")
        told = {name: value for name in _FIELDS if (value := getattr(status, name)) or name == "state"}
        try:
            os.write(self._descriptor, orjson.dumps(told) + b"\n")
        except OSError as error:
            log.warning("status pipe closed: %s", error)
            self._descriptor = None


def watch_parent(on_gone: Callable[[], None]) -> threading.Thread:
    """Call `on_gone` once the parent process is gone: its pipe on our stdin closes, or we have a new parent."""
    thread = threading.Thread(target=_watch, args=(os.getppid(), on_gone), name="parent", daemon=True)
    thread.start()
    return thread


def _watch(parent: int, on_gone: Callable[[], None]) -> None:
    descriptor = sys.stdin.fileno() if sys.stdin is not None else -1
    if descriptor >= 0 and _is_pipe(descriptor):
        while os.getppid() == parent:
            if select.select([descriptor], [], [], until_beat_s(_PIPED_CHECK_S))[0] and not os.read(descriptor, 4096):
                break
    else:
        wait_for_parent(parent)
    on_gone()


def wait_for_parent(parent: int) -> None:
    """Until this process has another parent, as it has once that one ended: the kernel tells of it where it can, so
    that nobody looks again and again."""
    with contextlib.suppress(OSError), _end_of(parent) as has_ended:
        while os.getppid() == parent and not has_ended(_TOLD_CHECK_S):
            pass
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(_PARENT_CHECK_S)


@contextlib.contextmanager
def _end_of(pid: int) -> Iterator[Callable[[float], bool]]:
    """What tells whether another process has ended, within so many seconds. Raises `OSError` where the kernel tells
    nobody, and when the process is gone."""
    if sys.platform == "linux":
        descriptor = os.pidfd_open(pid)
        try:
            yield lambda timeout_s: bool(select.select([descriptor], [], [], timeout_s)[0])
        finally:
            os.close(descriptor)
    elif sys.platform == "darwin":
        with contextlib.closing(select.kqueue()) as queue:
            queue.control([select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)], 0)
            yield lambda timeout_s: bool(queue.control(None, 1, timeout_s))
    else:
        raise OSError("nobody tells of the end of another process")


def _is_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
