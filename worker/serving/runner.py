"""Everything a request goes through on a worker, from ticket to last event, around whatever engine there is.

Threads. Each kind of work has a small pool (`worker.serving.handlers`), on which bodies are fetched and checked,
prompts rendered and tokenised, and work beside the batch is done; the engine speaks on a thread of its own.
Any thread may submit and cancel. One lock guards the table of requests and the numbering of their entries. It is held
while a frame is handed to the publisher and while a request is handed to the engine or taken back, so that frames leave
in the order of their entries and no request that has ended is begun; never during a call that waits.

Errors. Whatever goes wrong with a request becomes its `Failed` event and a `Report` to the control loop. A broken
engine ends every request with a retryable error and the worker with it. Where the engine is called, `BaseException` is
caught: a panic in a tokenizer's Rust code is no `Exception`, and would end a thread in silence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import redis

from shared.clock import RedisClock
from shared.errors import (
    BrokerUnavailableError,
    DeadlineExceededError,
    GatewayError,
    InternalError,
    ModelUnavailableError,
    RequestCancelledError,
    UnsupportedWorkError,
    WireError,
    WorkerLostError,
)
from shared.events import Event, Failed, Finished, Progress, Started, Usage
from shared.grants import decode_grant
from shared.readable import readable_events, unread_by
from shared.request import GenerateRequest, Join, Resume
from shared.seal import HostKey
from shared.tracing import NO_TRACER, Tracer
from shared.trail import decode_trail
from shared.work import KINDS, PROBATION_TOKENS, Generate, Work
from worker.engines.base import Engine, EngineInfo, EngineStats, Output, Prepared
from worker.serving.attempt import Attempt, Expected
from worker.serving.bodies import Bodies, Body, check_envelope, read_envelope
from worker.serving.default_system import with_default_system
from worker.serving.drift import Drift
from worker.serving.endings import log_end
from worker.serving.handlers import HANDLERS, Beside, InParts
from worker.serving.publisher import Publisher
from worker.serving.reports import Accepted, Broken, Ended, Loaded, LoadFailed, Loading, Report, Totals
from worker.serving.returning import return_reason
from worker.serving.said import Said
from worker.serving.service_time import Pace
from worker.serving.spans import tell_span
from worker.serving.ticket import Ticket
from worker.serving.voice import Spoken, Voice, entries, find_heard, heard_as, last_event

log = logging.getLogger(__name__)


class Runner:
    """Runs requests on one engine, whose outbox it is. `report` is called from several threads and must only hand the
    report on."""

    def __init__(
        self,
        engine: Engine,
        publisher: Publisher,
        bodies: Bodies,
        *,
        worker: str,
        key: HostKey,
        clock: RedisClock,
        report: Callable[[Report], None],
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._voice = Voice(publisher)
        self._bodies = bodies
        self._worker = worker
        self._key = key
        self._clock = clock
        self._report = report
        self._tracer = tracer
        self._lock = threading.Lock()
        self._work: dict[str, Attempt] = {}
        self._preparing = 0
        self._prepared_one = threading.Condition()
        self._in_engine: dict[str, Attempt] = {}  # by key
        self._pools = {
            KINDS[cls].name: ThreadPoolExecutor(handler.threads, KINDS[cls].name) for cls, handler in HANDLERS.items()
        }
        self._loader = threading.Thread(target=self._load, name="load", daemon=True)
        self._leaving: GatewayError | None = None  # why nothing more is begun
        self._sign_s = 0.0  # when the engine gave the last sign of life, or got work when it had none
        self.info: EngineInfo | None = None
        self.totals = Totals()
        self.pace = Pace()
        self.drift = Drift()

    def start(self) -> None:
        """Load the model, reporting `Loading`, then `Loaded` or `LoadFailed`."""
        self._loader.start()

    @property
    def in_flight(self) -> int:
        return len(self._work)

    def stats(self) -> EngineStats:
        return self._engine.stats() if self.info is not None else EngineStats()

    def stalled_s(self) -> float:
        """For how long the engine has had work without a sign of life."""
        stalled_s = self.stats().stalled_s
        if stalled_s is not None:
            return stalled_s
        return time.monotonic() - self._sign_s if self._in_engine else 0.0

    def submit(self, ticket: Ticket, body: Body | None = None) -> None:
        """Begin a request, whose body is fetched unless it is here already. An earlier attempt of it that still runs
        here ends; the same attempt is refused."""
        work = Attempt(ticket, time.monotonic())
        with self._lock:
            running = self._work.get(ticket.request_id)
            is_late = running is not None and running.ticket.attempt >= ticket.attempt
            if not is_late:
                self._work[ticket.request_id] = work
        if is_late:
            self._report(Ended(ticket, WireError("this attempt, or a later one, runs here already"), Usage()))
            return
        if running is not None:
            self._end(running, RequestCancelledError(f"attempt {ticket.attempt} has replaced it"))
        self._pools[ticket.kind].submit(self._do, work, body)

    def cancel(self, request_id: str, error: GatewayError | None = None, *, up_to_attempt: int | None = None) -> bool:
        """End a request with `error`, by default `RequestCancelledError`, unless it runs here in a later attempt than
        `up_to_attempt`. False when it is not here."""
        with self._lock:
            work = self._work.get(request_id)
        if work is None or (up_to_attempt is not None and work.ticket.attempt > up_to_attempt):
            return False
        return self._end(work, error or RequestCancelledError("the request was cancelled"))

    def pause(self, request_id: str) -> bool:
        """Let the request make place for another in the engine until there is one again. False when it does not run
        there, or the engine cannot pause."""
        with self._lock:
            work = self._work.get(request_id)
            can_pause = self.info is not None and self.info.can_pause
            if work is None or work.key not in self._in_engine or not can_pause:
                return False
            self._engine.pause(work.key)
        return True

    def join(self, join: Join) -> None:
        """A gateway wants to hear a request that may run here, under a name of its own."""
        with self._lock:
            is_heard = self._voice.join(self._work.get(join.request_id), join)
        log.info("%s %s request %s", join.heard_as, "joins" if is_heard else "cannot join", join.request_id)

    def leave(self, request_id: str, error: GatewayError, *, up_to_attempt: int | None = None) -> bool:
        """Whoever calls a request so hears no more of it; it is cancelled where nobody else does. False when nobody
        heard it so."""
        with self._lock:
            work = find_heard(self._work.values(), request_id)
            if work is None:
                work, last = self._work.get(request_id), up_to_attempt
                if work is None or (last is not None and work.ticket.attempt > last):
                    return False
            names = [name for _, name in heard_as(work)]
            if names and names != [request_id]:
                self._voice.part(work, request_id)
                return request_id in names
        return self._end(work, error)

    def cancel_gateway(self, gateway: str) -> None:
        """Nobody listens any more to what this gateway asked for."""
        with self._lock:
            heard = [name for work in self._work.values() for each, name in heard_as(work) if each == gateway]
        for name in heard:
            self.leave(name, RequestCancelledError(f"gateway {gateway} is gone"))

    def expire(self, now_s: float) -> None:
        """End what the engine has not begun by its deadline; `now_s` is Redis's. What it has begun may take its
        time: whoever does not want to wait for the rest leaves."""
        with self._lock:
            late = [w for w in self._work.values() if 0 < w.deadline_s <= now_s and not w.order.has_begun]
        for work in late:
            self._end(work, DeadlineExceededError("the request ran out of time"))

    def give_back(self, error: GatewayError) -> None:
        """The worker stops: what was begun goes on, the rest goes back to its gateways, with `error` as the reason, and
        so does what is claimed but was not read yet."""
        with self._lock:
            self._leaving = error
            unbegun = [work for work in self._work.values() if work.is_checked and not work.is_begun]
        for work in unbegun:
            self._end(work, error, is_leaving=True, unless_begun=True)

    def end_all(self, error: GatewayError) -> None:
        """The worker is at its end."""
        with self._lock:
            self._leaving = error
            everything = list(self._work.values())
        for work in everything:
            self._end(work, error, is_leaving=True)

    def stop(self, timeout_s: float) -> bool:
        """End the threads and unload the model. False when the engine, or the preparation of a request, did not
        come to an end in time: the process then cannot end by itself."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        end_s = time.monotonic() + timeout_s
        has_ended = self._engine.unload(timeout_s)
        if self._loader.is_alive():
            self._loader.join(max(0.0, end_s - time.monotonic()))
        with self._prepared_one:
            idle = self._prepared_one.wait_for(lambda: not self._preparing, max(0.0, end_s - time.monotonic()))
        return idle and has_ended and not self._loader.is_alive()

    # --- beside the engine ---------------------------------------------------------------------------------------

    def _do(self, work: Attempt, body: Body | None) -> None:
        """Body, checks, and what the kind of work asks for."""
        with self._prepared_one:
            self._preparing += 1
        try:
            task = self._checked_work(work, body or self._bodies.fetch(work.ticket))
            handler = HANDLERS[type(task)]
            if isinstance(handler, Beside):
                self._answer(work, *handler.answer(self._engine, task))
            elif isinstance(handler, InParts):
                self._answer(work, *handler.answer(self._engine, task, partial(self._tell, work)))
            elif isinstance(task, Generate):
                self._generate(work, task)
        except GatewayError as error:
            self._end(work, error, is_leaving=error is self._leaving)
        except redis.RedisError as error:
            log.warning("request %s could not be read: %s", work.ticket.request_id, error)
            self._end(work, BrokerUnavailableError("the request could not be read: Redis did not give it"))
        except BaseException as error:  # any bug in rendering or tokenising: this request's client is told
            log.exception("request %s could not be prepared", work.ticket.request_id)
            self._end(work, InternalError(f"the request could not be prepared: {type(error).__name__}"))
        if work.is_checked:
            self._drop_body(work.ticket)
        with self._prepared_one:
            self._preparing -= 1
            self._prepared_one.notify_all()

    def _drop_body(self, ticket: Ticket) -> None:
        try:
            self._bodies.drop(ticket)
        except redis.RedisError as error:
            log.debug("the body of %s stays until it expires: %s", ticket.request_id, error)

    def _checked_work(self, work: Attempt, body: Body) -> Work:
        if body.data is None:
            raise WireError("the request's body is gone")
        envelope, is_signed = read_envelope(work.ticket, body.data, self._key)
        work.unread = unread_by(envelope.codes)
        work.grant = decode_grant(envelope.grant)
        work.is_suspect = envelope.is_suspect
        work.traceparent = envelope.request.traceparent
        work.expected = Expected(envelope.placed_s, envelope.wait_s, envelope.prefill_s)
        ended = self._know(work, envelope.gateway, envelope.deadline_s)
        try:
            check_envelope(envelope, work.ticket, self._clock.now_s(), is_signed=is_signed)
        except DeadlineExceededError:
            work.is_checked = True
            raise
        work.is_checked = True
        if ended is not None:
            raise ended
        if body.is_ended:
            raise RequestCancelledError("the request was cancelled")
        if self._leaving is not None:
            raise self._leaving
        kind, model = envelope.kind.name, envelope.request.model
        if self.info is not None and kind not in self.info.kinds:
            raise UnsupportedWorkError.of(kind, model, worker=self._worker)
        return with_default_system(envelope.work)

    def _generate(self, work: Attempt, task: Generate) -> None:
        """Render and tokenise; then over to the engine."""
        work.resume = task.resume
        work.said = Said() if task.is_shared else None
        offer = self._engine.locate(task.request, work.grant) if work.grant is not None else None
        if task.resume is None:
            prepared = self._engine.prepare(task.request)
            total_tokens, warnings = prepared.prompt_tokens or 0, prepared.warnings
            self._note_size(task.request, total_tokens)
            self._tell(work, Progress(phase="queued", total_tokens=total_tokens, warnings=warnings))
        else:
            prepared = self._resumed(work, task.request, task.resume)
        self._hand_over(work, replace(prepared, offer=offer))

    def _note_size(self, request: GenerateRequest, prompt_tokens: int) -> None:
        text_bytes = decode_trail(request.trail).text_bytes
        if text_bytes and prompt_tokens:
            with self._lock:
                self.pace.tokens_per_byte.observe(prompt_tokens / text_bytes)

    def _resumed(self, work: Attempt, request: GenerateRequest, resume: Resume) -> Prepared:
        if self.info is not None and not self.info.gives_token_ids:
            raise WorkerLostError("this engine cannot go on with an answer that another has begun", worker=self._worker)
        work.usage = resume.usage
        return self._engine.prepare(request, resume)

    def _answer(self, work: Attempt, event: Event, usage: Usage) -> None:
        """The whole of an answer that was made beside the batch."""
        with self._lock:
            if work.is_ended:
                return
            self._voice.tell(work, (event,))
            self._forget(work)
            self._voice.end(work)
        work.usage = usage
        self._note_end(work, None)

    def _know(self, work: Attempt, gateway: str, deadline_s: float) -> GatewayError | None:
        """From here on the client can be told; tell it now when the request has ended meanwhile, with which error is
        returned."""
        with self._lock:
            work.gateway, work.deadline_s = gateway, deadline_s
            if not work.is_ended:
                self._voice.begin(work)
                return None
            error = work.error or RequestCancelledError("the request was cancelled")
            self._voice.fail(work, error)
        return error

    def _tell(self, work: Attempt, *events: Event) -> bool:
        """See `worker.engines.base.Say`."""
        with self._lock:
            if not work.is_ended:
                self._voice.tell(work, events)
                work.is_begun = work.is_begun or work.order.has_begun
            return not work.is_ended

    def _hand_over(self, work: Attempt, prepared: Prepared) -> None:
        with self._lock:
            if work.is_ended:
                return
            if not self._in_engine:
                self._sign_s = time.monotonic()
            for event in prepared.past:  # told already, by an earlier attempt
                work.order.feed(event)
            if work.said is not None and work.resume is not None:
                work.said.note(prepared.past, work.resume.token_ids)
            work.prompt_digest = prepared.prompt_digest
            self._in_engine[work.key] = work
            self._engine.submit(replace(prepared, key=work.key))
        self._report(Accepted(work.ticket))

    def _end(self, work: Attempt, error: GatewayError, *, is_leaving: bool = False, unless_begun: bool = False) -> bool:
        """End a request from our side: tell its gateway, take it out of the engine, report. False when it was over."""
        with self._lock:
            if work.is_ended or (unless_begun and work.is_begun):
                return False
            self._forget(work)
            work.error = error
            work.returned = return_reason(
                error, is_checked=work.is_checked, is_begun=work.is_begun, is_leaving=is_leaving
            )
            if work.gateway:
                self._voice.fail(work, error)
                self._voice.end(work)
            self._take_back(work)
        self._note_end(work, error)
        return True

    # --- with the lock held --------------------------------------------------------------------------------------

    def _forget(self, work: Attempt) -> None:
        work.is_ended = True
        if self._work.get(work.ticket.request_id) is work:
            del self._work[work.ticket.request_id]

    def _take_back(self, work: Attempt) -> None:
        if self._in_engine.pop(work.key, None) is not None:
            self._engine.cancel(work.key)

    # --- the engine ----------------------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            info = self._engine.load(lambda done: self._report(Loading(done)))
        except GatewayError as error:
            self._report(LoadFailed(error))
        except BaseException as error:  # a model's code may raise anything: whoever asks for the model is told
            log.exception("the model could not be loaded")
            self._report(LoadFailed(ModelUnavailableError(f"{type(error).__name__}: {error}")))
        else:
            self.info = info
            self._engine.start(self)
            self._report(Loaded(info))

    def alive(self) -> None:
        """See `Outbox`."""
        self._sign_s = time.monotonic()

    def broken(self, error: BaseException) -> None:
        """See `Outbox`."""
        with self._lock:
            died = list(self._in_engine.values())
        counts = {
            "died_with": len(died),
            "died_suspects": sum(work.is_suspect and work.said_tokens < PROBATION_TOKENS for work in died),
        }
        self.end_all(WorkerLostError("the engine failed", worker=self._worker, **counts))
        self._report(Broken(error))

    def emit(self, outputs: Sequence[Output]) -> None:
        """See `Outbox`."""
        self._sign_s = time.monotonic()
        frames: defaultdict[str, list[Spoken]] = defaultdict(list)
        over: list[Attempt] = []
        with self._lock:
            for output in outputs:
                work = self._in_engine.get(output.key)
                if work is None or work.is_ended or not (output.events or output.token_ids):
                    continue
                work.is_begun = work.is_begun or bool(output.token_ids)
                work.said_tokens += len(output.token_ids)
                events = self._checked(work, readable_events(output.events, work.unread))
                self._note_pace(work, has_tokens=bool(output.token_ids))
                for gateway, entry in entries(work, events, output.token_ids):
                    frames[gateway].append((work, entry))
                if work.order.ended:
                    self._forget(work)
                    over.append(work)
            for gateway, spoken in frames.items():
                over += self._voice.publish(gateway, spoken, self._forget)
            for work in over:
                self._voice.end(work)
                if work.error is None:
                    del self._in_engine[work.key]
                else:
                    self._take_back(work)
        for work in over:
            self._note_end(work, work.error)

    def _checked(self, work: Attempt, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """The events, which must be legal; the first that is not ends the request."""
        for index, event in enumerate(events):
            try:
                work.order.feed(event)
            except InternalError as error:
                log.error("request %s: %s", work.ticket.request_id, error)  # noqa: TRY400 - the text says it all
                work.error = error
                work.order.feed(Failed.of(error))
                return (*events[:index], Failed.of(error))
            if isinstance(event, Started):
                work.is_begun = True
                work.usage, work.first_s = event.usage, work.first_s or time.monotonic()
                self._note_beginning(work)
                opening = replace(event, worker=self._worker, prompt_digest=work.prompt_digest)
                events = (*events[:index], opening, *events[index + 1 :])
            elif isinstance(event, Finished):
                work.usage = event.usage
            elif isinstance(event, Failed):
                work.error = event.error()
                work.returned = return_reason(work.error, is_checked=True, is_begun=work.is_begun)
                events = (*events[:index], last_event(work, work.error))
        return events

    def _note_beginning(self, work: Attempt) -> None:
        """Its prefill begins."""
        work.is_beside = self.stats().running > 0
        if work.resume is None and work.expected.placed_s:
            waited_s = self._clock.now_s() - work.expected.placed_s
            self.drift.wait.observe(predicted_s=work.expected.wait_s, actual_s=waited_s)

    def _note_pace(self, work: Attempt, *, has_tokens: bool) -> None:
        now_s = time.monotonic()
        if has_tokens and not work.is_prefilled:
            work.is_prefilled, work.answered_s = True, now_s
            self.pace.prefill_s.observe(now_s - work.first_s)
            if work.resume is None:
                self.drift.note_prefill(
                    predicted_s=work.expected.prefill_s, actual_s=now_s - work.first_s, is_beside=work.is_beside
                )
        if work.is_prefilled and work.order.ended:
            self.pace.service_s.observe(now_s - work.first_s)

    def _note_end(self, work: Attempt, error: GatewayError | None) -> None:
        usage, now_s = work.usage, time.monotonic()
        if not work.kind.lane:
            with self._lock:
                self.totals.count(error, usage, work.resume, is_returned=work.returned is not None)
        log_end(work, error, now_s)
        tell_span(work, error, self._tracer, worker=self._worker)
        self._report(Ended(work.ticket, error, usage, is_returned=work.returned is not None))
