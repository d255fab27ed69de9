"""Engines that compute here: one thread, a batch that advances step by step, turns at a device shared with others.

`SteppedEngine` makes an `Engine` of a `Core`. It owns the thread, the inbox through which other threads speak to it,
the turn at the device and the stall clock; the core owns everything of the model's. All methods of a core but
`locate`, `prepare`, `count` and `stats` are called on the engine's thread. `step`, `pause`, `cancel` and, where it says
that it needs one, `idle` are called in a turn at the device; `load` and `unload` take turns themselves, piece by piece.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from shared.beats import until_beat_s
from shared.errors import GatewayError, InternalError
from shared.events import Failed
from shared.grants import Grant
from shared.request import GenerateRequest, Resume
from worker.device.turns import Turns
from worker.engines.base import Dated, EngineInfo, EngineStats, Outbox, Output, Prepared, Seen, Successor
from worker.engines.stall import StallClock
from worker.prefix_cache.index import PrefixIndex
from worker.prefix_cache.outline import outline

if TYPE_CHECKING:
    from worker.prompt.days import SharedDays

log = logging.getLogger(__name__)

_IDLE_S = 0.1
_QUIET_AFTER = 50  # calls of `idle`, after which it says when it is called again


class Core(Protocol):
    """A batch of requests on one model, advanced one step at a time."""

    def open_turns(self) -> Turns | None:
        """Turns at the device, None when there is none to share. Called once, before `load`; whoever asked closes
        them."""

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        """See `Engine.load`."""

    def locate(self, request: GenerateRequest, grant: Grant) -> Any:
        """See `Engine.locate`."""

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        """See `Engine.prepare`."""

    def count(self, request: GenerateRequest) -> int | None:
        """See `Engine.count`."""

    def submit(self, prepared: Prepared) -> None:
        """Take the request in. Raises `GatewayError` for one that cannot run."""

    def pause(self, key: str) -> None:
        """See `Engine.pause`."""

    def cancel(self, key: str) -> None:
        """See `Engine.cancel`."""

    def step(self, outbox: Outbox, arrive: Callable[[], None] = lambda: None) -> bool:
        """Advance everything once: one decode step for running requests, at most one prefill chunk. What was decoded
        is emitted before the chunk begins; in between, call `arrive`: it may `submit`, `pause` and `cancel`, so that
        who came meanwhile need not wait for another decode step. False when there was nothing to do yet, so that it is
        worth to `wait`. What goes wrong with one request is its `Failed`; an exception means that the engine is
        broken."""

    def has_work(self) -> bool:
        """Whether `step` would do anything, now or after a `wait`."""

    def wait(self) -> None:
        """A few milliseconds, or until what others do for this thread is done. The device is not needed meanwhile."""

    def needs_turn(self) -> bool:
        """Whether `idle` would use the device. Asked before each call of it, without a turn."""

    def idle(self) -> float | None:
        """Called several times a second while there is no work, for what is to be done all the same. The seconds until
        it is called again once nothing was asked for a while; None where nothing is ever left over."""

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""

    def unload(self) -> None:
        """Free the model. May be called again."""


class KeptStore(Protocol):
    """A prefix cache, on the engine's thread."""

    @property
    def index(self) -> PrefixIndex[Any]: ...

    def drop(self, keys: Collection[bytes]) -> int:
        """See `worker.prefix_cache.outline.drop`."""


@runtime_checkable
class Keeping(Protocol):
    """A core with a prefix cache that can be looked at."""

    @property
    def store(self) -> KeptStore: ...


@dataclass(frozen=True, slots=True)
class _Look:
    drop: tuple[bytes, ...]
    seen: Future[Seen | None]


@dataclass(frozen=True, slots=True)
class _Submit:
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class _Pause:
    key: str


@dataclass(frozen=True, slots=True)
class _Cancel:
    key: str


@dataclass(frozen=True, slots=True)
class _Start:
    outbox: Outbox


class _Stop:
    pass


_Message = _Submit | _Pause | _Cancel | _Look | _Start | _Stop


@dataclass(frozen=True, slots=True)
class _Heard:
    """The core's outbox: whatever it says is a sign of life."""

    outbox: Outbox
    clock: StallClock

    def emit(self, outputs: Sequence[Output]) -> None:
        self.clock.alive()
        self.outbox.emit(outputs)

    def alive(self) -> None:
        self.clock.alive()

    def broken(self, error: BaseException) -> None:
        self.outbox.broken(error)


class SteppedEngine:
    """See the module's text and `worker.engines.base.Engine`."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._set_aside: _Message | None = None  # out of the inbox, to be handled before what is there
        self._loaded: Future[EngineInfo] = Future()
        self._clock = StallClock()
        self._turns: Turns | None = None
        self._outbox: _Heard | None = None
        self._thread: threading.Thread | None = None

    # -- from other threads ---------------------------------------------------------------------------------------

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        self._thread = threading.Thread(target=self._run, args=(report,), name="engine", daemon=True)
        self._thread.start()
        return self._loaded.result()

    def start(self, outbox: Outbox) -> None:
        self._inbox.put(_Start(outbox))

    def locate(self, request: GenerateRequest, grant: Grant) -> Any:
        return self.core.locate(request, grant)

    def take_over(self, grant: Grant, part: int, parts: int) -> None:
        if isinstance(self.core, Successor) and self._outbox is not None:
            self.core.take_over(grant, part, parts)

    def share_days(self, days: SharedDays) -> None:
        if isinstance(self.core, Dated):
            self.core.share_days(days)

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        return self.core.prepare(request, resume)

    def count(self, request: GenerateRequest) -> int | None:
        return self.core.count(request)

    def submit(self, prepared: Prepared) -> None:
        self._inbox.put(_Submit(prepared))

    def pause(self, key: str) -> None:
        self._inbox.put(_Pause(key))

    def cancel(self, key: str) -> None:
        self._inbox.put(_Cancel(key))

    def look_at_pieces(self, drop: tuple[bytes, ...]) -> Future[Seen | None]:
        seen: Future[Seen | None] = Future()
        self._inbox.put(_Look(drop, seen))
        return seen

    def stats(self) -> EngineStats:
        return replace(self.core.stats(), stalled_s=self._clock.silent_s, longest_step_s=self._clock.longest_s)

    def unload(self, timeout_s: float) -> bool:
        thread = self._thread
        if thread is None:
            return True
        self._inbox.put(_Stop())
        thread.join(timeout_s)
        return not thread.is_alive()

    # -- the engine's thread --------------------------------------------------------------------------------------

    def _run(self, report: Callable[[float], None]) -> None:
        try:
            if self._load(report):
                self._serve()
        finally:
            self.core.unload()
            if self._turns is not None:
                self._turns.close()

    def _load(self, report: Callable[[float], None]) -> bool:
        try:
            self._turns = self.core.open_turns()
            info = self.core.load(report)
        except BaseException as error:  # noqa: BLE001 - whatever a model's code raises, whoever called is told
            self._loaded.set_exception(error)
            return False
        self._loaded.set_result(info)
        return True

    def _serve(self) -> None:
        try:
            while self._take_messages():
                if self._outbox is not None and self.core.has_work():
                    self._step(self._outbox)
        except BaseException as error:  # an engine that raises is broken: all its clients are told
            log.exception("the engine broke")
            self._clock.alive()
            if self._outbox is not None:
                self._outbox.broken(error)

    def _step(self, outbox: _Heard) -> None:
        with self._turn():
            has_done = self.core.step(outbox, self._arrive)
        if not has_done:
            if self._turns is not None:
                self._turns.offer(is_idle=True)  # whatever is waited for, others may use the device meanwhile
            with self._clock.running():
                self.core.wait()

    def _arrive(self) -> None:
        """In the middle of a step: obey what was said meanwhile, up to a stop, which is for the end of the step."""
        while self._set_aside is None and not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, _Stop | _Start):
                self._set_aside = message
            else:
                self._obey(message)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The device is this process's for the block, and the clock runs."""
        turns = self._turns
        if turns is None:
            with self._clock.running():
                yield
            return
        turns.take()
        with self._clock.running():
            try:
                yield
            finally:
                turns.offer(is_idle=not self.core.has_work())

    def _take_messages(self) -> bool:
        """Everything in the inbox; waits for a message while there is nothing else to do. False: stop."""
        wait = self._set_aside is None and not self.core.has_work()
        idled = 0
        rest_s: float | None = _IDLE_S
        if wait:
            self._clock.alive()
        while wait or self._set_aside is not None or not self._inbox.empty():
            try:
                message = self._next(timeout_s=self._pause_s(idled, rest_s) if wait else None)
            except Empty:
                rest_s = self._idle()
                idled += 1
                continue
            wait = False
            if isinstance(message, _Stop):
                return False
            self._handle(message)
        return True

    def _pause_s(self, idled: int, rest_s: float | None) -> float | None:
        """Until `idle` is called again; a message ends it at once."""
        if rest_s is None:
            return None
        return _IDLE_S if idled < _QUIET_AFTER or self.core.needs_turn() else until_beat_s(rest_s)

    def _idle(self) -> float | None:
        with self._turn() if self.core.needs_turn() else self._clock.running():
            rest_s = self.core.idle()
        self._clock.alive()
        return rest_s

    def _next(self, *, timeout_s: float | None) -> _Message:
        """Raises `Empty`."""
        message, self._set_aside = self._set_aside, None
        return message if message is not None else self._inbox.get(timeout=timeout_s)

    def _handle(self, message: _Submit | _Pause | _Cancel | _Look | _Start) -> None:
        """Between two steps."""
        if isinstance(message, _Start):
            self._outbox = _Heard(message.outbox, self._clock)
        elif isinstance(message, _Submit):
            with self._clock.running():
                self._obey(message)
        else:
            with self._turn():
                self._obey(message)

    def _obey(self, message: _Submit | _Pause | _Cancel | _Look) -> None:
        match message:
            case _Submit(prepared):
                self._admit(prepared)
            case _Pause(key):
                self.core.pause(key)
            case _Cancel(key):
                self.core.cancel(key)
            case _Look(keys, seen):
                seen.set_result(self._seen(keys))

    def _seen(self, keys: tuple[bytes, ...]) -> Seen | None:
        if not isinstance(self.core, Keeping):
            return None
        store = self.core.store
        return Seen(dropped=store.drop(keys) if keys else 0, outline=outline(store.index))

    def _admit(self, prepared: Prepared) -> None:
        assert self._outbox is not None, "a request before the start"
        error: GatewayError
        try:
            self.core.submit(prepared)
            return
        except GatewayError as refusal:
            error = refusal
        except BaseException as bug:  # any bug in admitting it: this request's client is told
            log.exception("the engine did not take request %s", prepared.key)
            error = InternalError(f"the engine did not take the request: {type(bug).__name__}")
        self._outbox.emit([Output(key=prepared.key, events=(Failed.of(error),))])
