"""Whatever happens to a request on a worker, its client hears the end of it, once and in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, Queue
from typing import Any

import pytest
import redis

from shared import wire
from shared.clock import RedisClock
from shared.config import load_settings
from shared.errors import (
    InvalidRequestError,
    ModelUnavailableError,
    OverloadedError,
    PromptTooLongError,
    WorkerLostError,
)
from shared.events import (
    Counted,
    Event,
    Failed,
    Finished,
    Progress,
    ReasoningDelta,
    Returned,
    Started,
    TextDelta,
    ToolCallStarted,
    Usage,
)
from shared.registry import ModelSpec
from shared.request import GenerateRequest, Resume, SamplingParams
from shared.seal import keys_of_host
from shared.work import Count, Envelope, Generate, Work
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.sealed import SECRET
from tests.support.worker import TestGateway, build_request, sign
from worker.device.turns import Turns
from worker.engines.base import EngineInfo, EngineStats, Outbox, Output, Prepared
from worker.engines.echo import EchoEngine
from worker.engines.stepped import Core, SteppedEngine
from worker.serving.bodies import Bodies
from worker.serving.publisher import Publisher
from worker.serving.reports import Broken, Ended, Loaded, LoadFailed, Loading, Report
from worker.serving.runner import Runner
from worker.serving.ticket import Ticket


class Bench:
    """A runner on an engine of the test's choice, a gateway that hears it, and what it reports."""

    def __init__(self, url: str, core: Core, gateway: TestGateway) -> None:
        self.gateway = gateway
        self.reports: Queue[Report] = Queue()
        self.seen: list[Report] = []
        keys = keys_of_host(SECRET.encode(), "w")
        self.clients = [redis.Redis.from_url(url) for _ in range(2)]
        self.publisher = Publisher(self.clients[0], NAMES, keys.own, worker="w", epoch="e")
        self.runner = Runner(
            SteppedEngine(core),
            self.publisher,
            Bodies(self.clients[1], NAMES, host="host"),
            worker="w",
            key=keys.own,
            clock=RedisClock(),
            report=self.reports.put,
        )

    def submit(self, request: GenerateRequest, **fields: Any) -> Ticket:
        """Store the body as a gateway does and hand the runner the ticket a job would."""
        ticket = self.store(request, **fields)
        self.runner.submit(ticket)
        return ticket

    def store(
        self,
        request: GenerateRequest,
        *,
        attempt: int = 1,
        secret: str = SECRET,
        deadline_s: float = 0.0,
        resume: Resume | None = None,
        codes: tuple[int, ...] = (),
        **predicted: float,
    ) -> Ticket:
        work = Generate(request=request, resume=resume)
        return self.store_work(work, attempt=attempt, secret=secret, deadline_s=deadline_s, codes=codes, **predicted)

    def store_work(
        self,
        work: Work,
        *,
        attempt: int = 1,
        secret: str = SECRET,
        deadline_s: float = 0.0,
        signed_as: str = "",
        codes: tuple[int, ...] = (),
        **predicted: float,
    ) -> Ticket:
        envelope = Envelope(
            work=work, gateway=self.gateway.name, attempt=attempt, deadline_s=deadline_s, codes=codes, **predicted
        )
        body, request_id, kind = wire.encode(envelope), work.request.id, signed_as or envelope.kind.name
        self.gateway.client.set(NAMES.body("host", request_id, attempt), body)
        return Ticket(request_id, attempt, sign(request_id, attempt, body, secret, host="w", kind=kind), kind)

    def count(self, text: str, request_id: str = "c1", **fields: Any) -> None:
        self.runner.submit(self.store_work(Count(request=build_request(text, request_id)), **fields))

    def ask(self, text: str, request_id: str = "r1", **fields: Any) -> Ticket:
        return self.submit(build_request(text, request_id), **fields)

    def report(self, kind: type[Any], timeout_s: float = 40.0) -> Any:
        """The next report of a kind."""
        end_s = time.monotonic() + timeout_s
        while True:
            report = self.reports.get(timeout=max(0.01, end_s - time.monotonic()))
            self.seen.append(report)
            if isinstance(report, kind):
                return report


@contextmanager
def bench_with(url: str, core: Core) -> Iterator[Bench]:
    with TestGateway(url) as gateway:
        bench = Bench(url, core, gateway)
        bench.publisher.start()
        bench.runner.start()
        try:
            bench.report(Loaded | LoadFailed)
            yield bench
        finally:
            bench.runner.stop(0.0)
            if isinstance(core, EchoEngine):
                core.unload()  # lets a frozen one go
            assert bench.runner.stop(5.0)
            bench.publisher.close()
            for client in bench.clients:
                client.close()


def build_echo(**options: Any) -> EchoEngine:
    return EchoEngine(ModelSpec(id="tiny", source="tiny", engine="echo", options=options), load_settings(environ={}))


@pytest.fixture
def bench(redis_url: str) -> Iterator[Bench]:
    with bench_with(redis_url, build_echo(step_ms=1)) as bench:
        yield bench


class ScriptedEngine:
    """Does in each step what the test says, and nothing else, as long as it holds a request. The test calls requests by
    their ids, of whatever attempt it holds."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self.steps: Queue[Callable[[], list[Output]]] = Queue()
        self.taken: list[str] = []
        self.submitted = 0
        self.warnings = ("no logit_bias",)
        self.gives_token_ids = True
        self.cancelled: list[str] = []
        self.idled = threading.Event()
        self.on_load: Callable[[], None] = lambda: None
        self.on_submit: Callable[[], None] = lambda: None
        self.on_prepare: Callable[[], None] = lambda: None
        self.on_count: Callable[[], None] = lambda: None
        self.kinds = ("generate", "count")

    def open_turns(self) -> Turns | None:
        return None

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        report(0.5)
        self.on_load()
        return EngineInfo(context_tokens=100, gives_token_ids=self.gives_token_ids, kinds=self.kinds)

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        self.on_prepare()
        past = () if resume is None else (Started(usage=resume.usage), TextDelta(text="said"))
        return Prepared(request=request, prompt_tokens=7, warnings=self.warnings, prompt_digest="7d", past=past)

    def count(self, request: GenerateRequest) -> int:
        self.on_count()
        return 7

    def submit(self, prepared: Prepared) -> None:
        self.on_submit()
        self._keys[prepared.request.id] = prepared.key
        self.taken.append(prepared.request.id)
        self.submitted += 1

    def pause(self, key: str) -> None:
        raise AssertionError("it cannot pause")

    def cancel(self, key: str) -> None:
        request_id = next((name for name, known in self._keys.items() if known == key), None)
        if request_id is not None:
            self.cancelled.append(request_id)
            self.taken = [taken for taken in self.taken if taken != request_id]

    def step(self, outbox: Outbox, arrive: Callable[[], None] = lambda: None) -> bool:
        try:
            outputs = self.steps.get(timeout=0.005)()
        except Empty:
            return False
        outbox.emit([replace(output, key=self._keys.get(output.key, output.key)) for output in outputs])
        return True

    def wait(self) -> None:
        pass

    def has_work(self) -> bool:
        return bool(self.taken)

    def needs_turn(self) -> bool:
        return False

    def idle(self) -> float | None:
        self.idled.set()
        return 0.1

    def stats(self) -> EngineStats:
        return EngineStats()

    def unload(self) -> None:
        pass

    def says(self, *events: Event, request_id: str = "r1", token_ids: tuple[int, ...] = ()) -> None:
        """Of the attempt that the engine holds now, if it holds any yet."""
        key = self._keys.get(request_id, request_id)
        self.steps.put(lambda: [Output(key=key, events=events, token_ids=token_ids)])


STARTED = Started(usage=Usage(input_tokens=7))


def test_events_come_in_order_from_queued_to_finished(bench: Bench) -> None:
    bench.ask("one two")
    bench.gateway.wait_end()
    kinds = [type(event) for event in bench.gateway.events()]
    assert kinds == [Progress, Started, TextDelta, TextDelta, Finished]
    assert bench.gateway.entry_seqs() == list(range(len(bench.gateway.entry_seqs())))
    assert bench.gateway.events()[0] == Progress(phase="queued", total_tokens=2)


def test_started_names_the_worker(bench: Bench) -> None:
    bench.ask("hi")
    assert bench.gateway.wait_for(Started).worker == "w"


def test_the_end_is_reported_with_the_usage(bench: Bench) -> None:
    ticket = bench.ask("one two")
    assert bench.report(Ended) == Ended(ticket, None, Usage(input_tokens=2, output_tokens=2))


FINISHED = Finished(reason="stop", usage=Usage(input_tokens=7, output_tokens=1))


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def acted(redis_url: str, scripted: ScriptedEngine) -> Iterator[Bench]:
    """A runner on the scripted engine."""
    with bench_with(redis_url, scripted) as bench:
        yield bench


def held(bench: Bench, engine: ScriptedEngine, *names: str) -> None:
    """The engine holds these requests."""
    for name in names:
        bench.ask("x", name)
    wait_until(lambda: set(names) <= set(engine.taken), "the engine has them")


def codes(bench: Bench, request_id: str = "r1") -> list[str]:
    return [event.code for event in bench.gateway.events(request_id) if isinstance(event, Failed)]


class PanicError(BaseException):
    """As PyO3 raises it when a tokenizer's Rust code panics."""


def fail_with(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


# --- what the engine says -------------------------------------------------------------------------------------------


def test_a_step_is_one_frame_for_each_gateway(redis_url: str, acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1", "r2")
    mine = acted.gateway
    with TestGateway(redis_url, "gw2") as other:
        acted.gateway = other
        held(acted, scripted, "r3")
        outputs = [Output(key=name, events=(STARTED,), token_ids=(5,)) for name in ("r1", "r2", "r3")]
        scripted.steps.put(lambda: outputs)
        mine.wait_for(Started, "r2")
        other.wait_for(Started, "r3")
        frame = next(frame for _, frame in mine.frames for e in frame.entries if e.token_ids)
        assert [(entry.request_id, entry.token_ids) for entry in frame.entries] == [("r1", (5,)), ("r2", (5,))]


def test_progress_says_the_prompts_length_and_the_warnings(acted: Bench) -> None:
    acted.ask("x")
    expected = Progress(phase="queued", total_tokens=7, warnings=("no logit_bias",))
    assert acted.gateway.wait_for(Progress) == expected


def test_tokens_without_text_travel_too(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1")
    scripted.says(STARTED)
    scripted.says(token_ids=(1, 2))
    scripted.says(FINISHED)
    acted.gateway.wait_end()
    entries = [entry for _, frame in acted.gateway.frames for entry in frame.entries]
    assert [entry.token_ids for entry in entries] == [(), (), (1, 2), ()]


def test_an_illegal_event_ends_the_request_with_an_error(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1")
    scripted.says(STARTED, TextDelta(text="a"), STARTED, TextDelta(text="b"))
    acted.gateway.wait_end()
    kinds = [type(event) for event in acted.gateway.events()]
    assert kinds == [Progress, Started, TextDelta, Failed]
    wait_until(lambda: scripted.cancelled == ["r1"], "the engine is told")
    assert acted.report(Ended).error.code == "internal"


def all_codes_but(*classes: type) -> tuple[int, ...]:
    return tuple(wire.CODES - {wire.code_of(cls) for cls in classes})


def test_a_gateway_that_knows_fewer_events_hears_the_rest(acted: Bench, scripted: ScriptedEngine) -> None:
    acted.ask("x", codes=all_codes_but(Progress, ReasoningDelta))
    wait_until(lambda: scripted.taken == ["r1"], "the engine has it")
    scripted.says(STARTED, Progress(phase="prefill"), ReasoningDelta(text="hm"), TextDelta(text="a"), token_ids=(5,))
    scripted.says(ReasoningDelta(text="hm"), token_ids=(6,))
    scripted.says(FINISHED)
    acted.gateway.wait_end()
    assert [type(event) for event in acted.gateway.events()] == [Started, TextDelta, Finished]
    entries = [entry for _, frame in acted.gateway.frames for entry in frame.entries]
    assert [(entry.seq, entry.token_ids) for entry in entries] == [(0, (5,)), (1, (6,)), (2, ())]
    assert acted.report(Ended).error is None


def test_an_answer_that_a_gateway_cannot_read_ends_with_an_error(acted: Bench, scripted: ScriptedEngine) -> None:
    """Told without its calls it would be another answer; and nobody needs the rest of it."""
    acted.ask("x", codes=all_codes_but(ToolCallStarted))
    held(acted, scripted, "r2")
    wait_until(lambda: len(scripted.taken) == 2, "the engine has both")
    call = ToolCallStarted(index=0, id="t", name="read")
    scripted.steps.put(lambda: [Output(key=name, events=(STARTED, call)) for name in ("r1", "r2")])
    failed = acted.gateway.wait_for(Failed)
    assert (failed.code, "ToolCallStarted" in failed.message) == ("wire", True)
    assert acted.gateway.wait_for(ToolCallStarted, "r2") == call
    wait_until(lambda: scripted.cancelled == ["r1"], "the engine is told")
    assert acted.report(Ended).error.code == "wire"


UNSENDABLE = "\ud800"


@pytest.mark.parametrize("last", [(), (FINISHED,)], ids=["in the middle", "with the end"])
def test_a_part_of_an_answer_that_does_not_travel_ends_that_request_alone(
    acted: Bench, scripted: ScriptedEngine, last: tuple[Event, ...]
) -> None:
    held(acted, scripted, "r1", "r2")
    scripted.says(STARTED)
    texts = {"r1": UNSENDABLE, "r2": "sound"}
    outputs = [
        Output(key=name, events=(*(() if name == "r1" else (STARTED,)), TextDelta(text=text), *last))
        for name, text in texts.items()
    ]
    scripted.steps.put(lambda: outputs)
    assert acted.gateway.wait_for(TextDelta, "r2").text == "sound"
    assert acted.gateway.wait_for(Failed, "r1").code == "internal"
    assert acted.gateway.entry_seqs("r1") == [0, 1, 2]
    assert acted.report(Ended).ticket.request_id in texts
    wait_until(lambda: "r1" in scripted.cancelled, "the engine is told")
    held(acted, scripted, "r3")
    scripted.says(STARTED, FINISHED, request_id="r3")
    assert isinstance(acted.gateway.wait_end("r3"), Finished)


def test_warnings_that_do_not_travel_end_the_request_with_an_error(acted: Bench, scripted: ScriptedEngine) -> None:
    scripted.warnings = (UNSENDABLE,)
    acted.ask("x")
    assert acted.gateway.wait_for(Failed).code == "internal"
    assert acted.gateway.entry_seqs() == [0]
    assert acted.report(Ended).error.code == "internal"


@pytest.mark.parametrize("kind", [KeyError, PanicError])
@pytest.mark.parametrize("place", ["on_prepare", "on_submit"])
def test_a_bug_in_the_engine_that_meets_one_request_ends_that_request_alone(
    acted: Bench, scripted: ScriptedEngine, place: str, kind: type[BaseException]
) -> None:
    setattr(scripted, place, fail_with(kind("a bug")))
    acted.ask("x")
    failed = acted.gateway.wait_for(Failed)
    assert (failed.code, "a bug" in failed.message) == ("internal", False)
    setattr(scripted, place, lambda: None)
    held(acted, scripted, "r2")
    scripted.says(STARTED, FINISHED, request_id="r2")
    assert isinstance(acted.gateway.wait_end("r2"), Finished)


def test_outputs_after_the_end_are_not_passed_on(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1", "r2")
    scripted.says(STARTED, FINISHED)
    scripted.says(TextDelta(text="late"))
    scripted.says(STARTED, FINISHED, request_id="r2")
    acted.gateway.wait_end("r2")
    assert isinstance(acted.gateway.events("r1")[-1], Finished)


@pytest.mark.parametrize("kind", [RuntimeError, PanicError])
def test_an_engine_that_breaks_ends_every_request_with_a_retryable_error(
    acted: Bench, scripted: ScriptedEngine, kind: type[BaseException]
) -> None:
    held(acted, scripted, "r1", "r2")
    for name in ("r1", "r2"):
        scripted.says(STARTED, request_id=name)
    scripted.steps.put(fail_with(kind("Metal is gone")))  # type: ignore[arg-type]
    assert str(acted.report(Broken).error) == "Metal is gone"
    for name in ("r1", "r2"):
        failed = acted.gateway.wait_for(Failed, name)
        assert isinstance(failed.error(), WorkerLostError)
        assert failed.error().retryable
    ended = [report for report in acted.seen if isinstance(report, Ended)]
    assert {report.ticket.request_id for report in ended} == {"r1", "r2"}


def test_the_engine_is_stalled_while_it_works_without_output(acted: Bench, scripted: ScriptedEngine) -> None:
    assert acted.runner.stalled_s() == 0
    held(acted, scripted, "r1")
    wait_until(lambda: acted.runner.stalled_s() > 0.1, "time without output")
    seen = [acted.runner.stalled_s()]

    def has_begun_anew() -> bool:
        seen.append(acted.runner.stalled_s())
        return seen[-1] < seen[-2]

    scripted.says(STARTED)
    wait_until(has_begun_anew, "output")
    acted.runner.cancel("r1")
    wait_until(lambda: acted.runner.stalled_s() == 0, "no work")


def test_an_engine_that_has_finished_everything_is_not_stalled(bench: Bench) -> None:
    bench.ask("hi")
    bench.report(Ended)
    wait_until(lambda: bench.runner.stalled_s() == 0, "idle")


# --- loading --------------------------------------------------------------------------------------------------------


def test_an_engine_without_work_may_tidy_up_now_and_then(acted: Bench, scripted: ScriptedEngine) -> None:
    assert scripted.idled.wait(40)
    scripted.idled.clear()
    assert scripted.idled.wait(40)


def test_loading_reports_progress_then_what_was_loaded(redis_url: str, scripted: ScriptedEngine) -> None:
    with bench_with(redis_url, scripted) as bench:
        assert bench.seen == [Loading(0.5), Loaded(EngineInfo(context_tokens=100))]


def test_a_model_that_cannot_be_loaded_says_why(redis_url: str, scripted: ScriptedEngine) -> None:
    scripted.on_load = fail_with(ModelUnavailableError("no config.json"))
    with bench_with(redis_url, scripted) as bench:
        report = bench.seen[-1]
        assert isinstance(report, LoadFailed)
        assert (report.error.code, report.error.message) == ("model_unavailable", "no config.json")


@pytest.mark.parametrize("kind", [ValueError, PanicError])
def test_an_unexpected_error_while_loading_is_a_reason_too(
    redis_url: str, scripted: ScriptedEngine, kind: type[BaseException]
) -> None:
    scripted.on_load = fail_with(kind("bad shape (3, 4)"))
    with bench_with(redis_url, scripted) as bench:
        report = bench.seen[-1]
        assert isinstance(report, LoadFailed)
        assert "bad shape (3, 4)" in report.error.message


# --- requests that must not run -------------------------------------------------------------------------------------


def test_a_wrong_signature_is_refused_and_says_what_to_check(bench: Bench) -> None:
    bench.ask("hi", secret="another")
    failed = bench.gateway.wait_for(Failed)
    assert (failed.code, "MLX_GATEWAY_SECRET" in failed.message) == ("wire", True)


def test_a_signature_does_not_fit_another_attempt(bench: Bench) -> None:
    ticket = bench.store(build_request("hi"), attempt=1)
    bench.gateway.client.rename(NAMES.body("host", "r1", 1), NAMES.body("host", "r1", 2))
    bench.runner.submit(Ticket(ticket.request_id, 2, ticket.signature))
    assert bench.gateway.wait_for(Failed).code == "wire"


def test_the_body_of_another_request_is_refused(bench: Bench) -> None:
    ticket = bench.store(build_request("hi", "other"))
    bench.gateway.client.rename(NAMES.body("host", "other", 1), NAMES.body("host", "r1", 1))
    bench.runner.submit(Ticket("r1", 1, ticket.signature))
    assert bench.gateway.wait_for(Failed).code == "wire"


def test_a_body_that_is_gone_fails_the_job(bench: Bench) -> None:
    bench.runner.submit(Ticket("r1", 1, "00"))
    assert bench.report(Ended).error.message == "the request's body is gone"


def test_bytes_that_are_no_body_fail_the_job(bench: Bench) -> None:
    bench.gateway.client.set(NAMES.body("host", "r1", 1), b"\x80\x04pickle")
    bench.runner.submit(Ticket("r1", 1, "00"))
    assert bench.report(Ended).error.code == "wire"


def test_an_expired_request_is_dropped_before_prefill(acted: Bench, scripted: ScriptedEngine) -> None:
    acted.ask("x", deadline_s=time.time() - 1)
    assert acted.gateway.wait_for(Failed).code == "deadline_exceeded"
    assert scripted.taken == []
    wait_until(
        lambda: not acted.gateway.client.exists(NAMES.body("host", "r1", 1)),
        "the body does not outlive the request",
    )


def test_a_request_cancelled_before_it_was_taken_does_not_run(acted: Bench, scripted: ScriptedEngine) -> None:
    acted.gateway.client.set(NAMES.ended("r1"), 1)
    acted.ask("x")
    failed = acted.gateway.wait_for(Failed)
    assert (failed.code, failed.message) == ("cancelled", "the request was cancelled")
    assert scripted.taken == []


def test_a_client_error_of_the_engine_reaches_the_client_as_it_is(acted: Bench, scripted: ScriptedEngine) -> None:
    scripted.on_prepare = fail_with(InvalidRequestError("no such role", param="messages.0.role"))
    acted.ask("x")
    failed = acted.gateway.wait_for(Failed)
    assert (failed.code, failed.details) == ("invalid_request", {"param": "messages.0.role"})


@pytest.mark.parametrize("place", ["on_prepare", "on_submit"])
def test_an_unexpected_error_becomes_an_internal_error_without_its_text(
    acted: Bench, scripted: ScriptedEngine, place: str
) -> None:
    setattr(scripted, place, fail_with(KeyError("a secret prompt")))
    acted.ask("x")
    failed = acted.gateway.wait_for(Failed)
    assert failed.code == "internal"
    assert "secret" not in failed.message
    setattr(scripted, place, lambda: None)
    held(acted, scripted, "r2")  # and the worker goes on


def test_an_error_that_does_not_travel_is_told_without_its_details(acted: Bench, scripted: ScriptedEngine) -> None:
    scripted.on_prepare = fail_with(InvalidRequestError("too big", number=2**80))
    acted.ask("x")
    assert acted.gateway.wait_for(Failed).code == "invalid_request"
    scripted.on_prepare = lambda: None
    acted.ask("x", "r2")
    acted.gateway.wait_for(Progress, "r2")
    frames = [frame.seq for _, frame in acted.gateway.frames if frame.entries]
    assert frames == [1, 2]


def test_the_body_leaves_redis_when_the_request_is_taken(bench: Bench) -> None:
    bench.ask("hi")
    bench.gateway.wait_end()
    wait_until(lambda: not bench.gateway.client.exists(NAMES.body("host", "r1", 1)), "the body is taken")


# --- cancellation and deadlines -------------------------------------------------------------------------------------


def test_what_was_predicted_is_compared_with_what_came(bench: Bench) -> None:
    """Waits: from when it was placed, in Redis's time, until its prefill began."""
    for number in range(8):
        predicted = {"placed_s": time.time() - 6.0, "wait_s": 4.0, "prefill_s": 0.0}
        bench.submit(build_request("hi", f"r{number}"), **predicted)
        bench.report(Ended)
    assert bench.runner.drift.wait.value == pytest.approx(1.5, rel=0.1)
    assert bench.runner.drift.alone.value == 1.0, "nothing was predicted of the prefill"


def test_cancelling_while_generating_ends_it_within_a_step(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1")
    scripted.says(STARTED)
    acted.gateway.wait_for(Started)
    assert acted.runner.cancel("r1")
    assert acted.gateway.wait_for(Failed).code == "cancelled"
    wait_until(lambda: scripted.cancelled == ["r1"], "the engine forgets it")
    assert acted.runner.in_flight == 0


def test_cancelling_while_preparing_ends_it_at_once(acted: Bench, scripted: ScriptedEngine) -> None:
    entered, go = threading.Event(), threading.Event()
    scripted.on_prepare = lambda: (entered.set(), go.wait(40))  # type: ignore[assignment,func-returns-value]
    acted.ask("x")
    assert entered.wait(40)
    acted.runner.cancel("r1")
    assert acted.gateway.wait_for(Failed).code == "cancelled"
    go.set()
    held(acted, scripted, "r2")
    assert scripted.taken == ["r2"]
    assert len(acted.gateway.events("r1")) == 1


def test_cancelling_before_the_body_is_read_still_tells_the_client(bench: Bench) -> None:
    """The gateway is in the body: the client is told once that has been read."""
    ticket = bench.store(build_request("hi"))
    held_up = threading.Event()
    for _ in range(4):
        bench.runner._pools["generate"].submit(held_up.wait, 10)
    bench.runner.submit(ticket)
    bench.runner.cancel("r1")
    held_up.set()
    assert bench.gateway.wait_for(Failed).code == "cancelled"
    assert [type(event) for event in bench.gateway.events()] == [Failed]
    wait_until(
        lambda: not bench.gateway.client.exists(NAMES.body("host", "r1", 1)),
        "the body does not outlive the request",
    )


def test_pausing_is_said_to_be_done_where_it_can_be(bench: Bench, acted: Bench, scripted: ScriptedEngine) -> None:
    bench.ask("echo:hang")
    bench.gateway.wait_for(Started)
    assert bench.runner.pause("r1")
    assert not bench.runner.pause("never seen")
    bench.runner.cancel("r1")
    held(acted, scripted, "r2")  # on the same Redis, where the end of the first takes its body along
    assert not acted.runner.pause("r2")  # this engine cannot


def test_cancelling_something_unknown_or_over_changes_nothing(bench: Bench) -> None:
    bench.ask("hi")
    bench.gateway.wait_end()
    bench.report(Ended)
    assert not bench.runner.cancel("r1")
    assert not bench.runner.cancel("never seen")
    assert codes(bench) == []


def test_a_gateway_that_is_gone_takes_its_requests_along(
    redis_url: str, acted: Bench, scripted: ScriptedEngine
) -> None:
    held(acted, scripted, "r1")
    with TestGateway(redis_url, "gw2") as other:
        acted.gateway, mine = other, acted.gateway
        held(acted, scripted, "r2")
        acted.runner.cancel_gateway(mine.name)
        assert acted.report(Ended).ticket.request_id == "r1"
        wait_until(lambda: scripted.taken == ["r2"], "only its requests")


def test_a_deadline_is_for_the_beginning_of_an_answer(acted: Bench, scripted: ScriptedEngine) -> None:
    deadline_s = time.time() + 60
    for name in ("waits", "begun"):
        acted.ask("x", name, deadline_s=deadline_s)
    acted.ask("x", "patient")
    wait_until(lambda: len(scripted.taken) == 3, "all are in the engine")
    scripted.says(STARTED, request_id="begun")
    acted.gateway.wait_for(Started, "begun")
    acted.runner.expire(deadline_s - 1)
    assert acted.runner.in_flight == 3
    acted.runner.expire(deadline_s)
    assert acted.gateway.wait_for(Failed, "waits").code == "deadline_exceeded"
    assert acted.runner.in_flight == 2


# --- attempts -------------------------------------------------------------------------------------------------------


def test_a_later_attempt_replaces_the_one_that_runs(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1")
    acted.ask("x", attempt=2)
    wait_until(lambda: acted.gateway.entry_seqs(attempt=2) == [0], "the second attempt")
    wait_until(lambda: scripted.submitted == 2, "the engine has it")
    scripted.says(STARTED, FINISHED)
    acted.gateway.wait_for(Finished)
    assert acted.gateway.entry_seqs(attempt=2) == [0, 1]
    assert "cancelled" in codes(acted)


def test_an_attempt_that_was_replaced_in_redis_does_not_run(acted: Bench, scripted: ScriptedEngine) -> None:
    late = acted.store(build_request("x"), attempt=1)
    acted.store(build_request("x"), attempt=2)
    acted.gateway.client.set(NAMES.ended("r1"), 1)
    acted.runner.submit(late)
    assert acted.report(Ended).error.code == "cancelled"
    wait_until(lambda: not acted.gateway.client.exists(NAMES.body("host", "r1", 1)), "its body goes")
    assert acted.gateway.client.exists(NAMES.body("host", "r1", 2)), "the later attempt's stays"


def test_the_same_attempt_twice_runs_once(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1")
    ticket = Ticket("r1", 1, "another job")
    acted.runner.submit(ticket)
    report = acted.report(Ended)
    assert (report.ticket, report.error.code) == (ticket, "wire")
    assert codes(acted) == []


def test_outputs_of_an_old_attempt_do_not_reach_the_new_one(acted: Bench, scripted: ScriptedEngine) -> None:
    """The engine still answers the first attempt while the second is being prepared."""
    held(acted, scripted, "r1")
    scripted.says(STARTED)
    acted.gateway.wait_for(Started)
    go = threading.Event()
    scripted.on_prepare = lambda: go.wait(40)  # type: ignore[assignment,return-value]
    acted.ask("x", attempt=2)
    scripted.says(TextDelta(text="old"))
    wait_until(lambda: scripted.cancelled, "the first attempt is dropped")
    go.set()
    wait_until(lambda: acted.gateway.entry_seqs(attempt=2) == [0], "the second attempt")
    wait_until(lambda: scripted.submitted == 2, "the engine has it")
    scripted.says(STARTED, TextDelta(text="new"), FINISHED)
    acted.gateway.wait_for(Finished)
    second = [e for _, f in acted.gateway.frames for e in f.entries if e.attempt == 2]
    texts = [event.text for entry in second for event in entry.events if isinstance(event, TextDelta)]
    assert texts == ["new"]


# --- resumed attempts -----------------------------------------------------------------------------------------------

FIRST = Usage(input_tokens=9, cached_tokens=4)


def test_a_resumed_attempt_says_only_what_follows(acted: Bench, scripted: ScriptedEngine) -> None:
    acted.ask("x", attempt=2, resume=Resume(token_ids=(5, 6), usage=FIRST))
    wait_until(lambda: scripted.taken == ["r1"], "the engine has it")
    whole = Usage(input_tokens=9, cached_tokens=4, output_tokens=3)
    scripted.says(TextDelta(text=" more"), Finished(reason="stop", usage=whole), token_ids=(7,))
    acted.gateway.wait_end()
    assert [type(event) for event in acted.gateway.events()] == [TextDelta, Finished]
    assert acted.gateway.entry_seqs(attempt=2) == [0]
    assert acted.report(Ended).usage == whole


def test_the_order_of_events_goes_on_from_what_was_said(acted: Bench, scripted: ScriptedEngine) -> None:
    acted.ask("x", attempt=2, resume=Resume(token_ids=(5,), usage=FIRST))
    wait_until(lambda: scripted.taken == ["r1"], "the engine has it")
    scripted.says(STARTED)
    assert acted.gateway.wait_for(Failed).code == "internal"


def test_a_resumed_attempt_counts_its_prompt_apart_and_its_words_once(acted: Bench, scripted: ScriptedEngine) -> None:
    acted.ask("x", attempt=2, resume=Resume(token_ids=(5, 6), usage=FIRST))
    wait_until(lambda: scripted.taken == ["r1"], "the engine has it")
    scripted.says(Finished(reason="stop", usage=Usage(input_tokens=9, cached_tokens=4, output_tokens=5)))
    acted.report(Ended)
    totals = acted.runner.totals
    assert (totals.input_tokens, totals.cached_tokens, totals.resumed_tokens, totals.output_tokens) == (0, 0, 9, 3)


def test_an_engine_that_gives_no_token_ids_resumes_nothing(redis_url: str, scripted: ScriptedEngine) -> None:
    scripted.gives_token_ids = False
    with bench_with(redis_url, scripted) as bench:
        bench.ask("x", attempt=2, resume=Resume(token_ids=(5,), usage=FIRST))
        returned = bench.gateway.wait_for(Returned)
        assert (returned.reason, returned.code) == ("unable", "worker_lost")
        assert scripted.taken == []


# --- what goes back unbegun -----------------------------------------------------------------------------------------

LEAVING = WorkerLostError("the worker is stopping", worker="w")


def returns(bench: Bench, request_id: str = "r1") -> list[tuple[str, str]]:
    return [(event.reason, event.code) for event in bench.gateway.events(request_id) if isinstance(event, Returned)]


def test_a_worker_that_stops_gives_back_what_it_has_not_begun_and_goes_on_with_the_rest(
    acted: Bench, scripted: ScriptedEngine
) -> None:
    held(acted, scripted, "begun", "waiting", "resumed")
    acted.ask("x", "resumed", attempt=2, resume=Resume(token_ids=(5,), usage=FIRST))
    scripted.says(STARTED, request_id="begun")
    acted.gateway.wait_for(Started, "begun")
    wait_until(lambda: acted.runner.in_flight == 3 and "resumed" in scripted.taken, "it holds the second attempt")
    acted.runner.give_back(LEAVING)
    for name in ("waiting", "resumed"):
        acted.gateway.wait_for(Returned, name)
        assert returns(acted, name)[-1] == ("leaving", "worker_lost")
        assert codes(acted, name) == ["cancelled"] * (name == "resumed")  # its first attempt was replaced
    wait_until(lambda: scripted.taken == ["begun"], "the engine has let them go")
    scripted.says(TextDelta(text="on"), FINISHED, request_id="begun", token_ids=(5,))
    assert isinstance(acted.gateway.wait_end("begun"), Finished)
    acted.report(Ended)
    wait_until(lambda: acted.runner.totals.finished == 1, "the end")
    assert (acted.runner.totals.returned, acted.runner.totals.failed) == (2, 0)


def test_what_is_still_being_prepared_when_the_worker_stops_goes_back_too(
    acted: Bench, scripted: ScriptedEngine
) -> None:
    entered, go = threading.Event(), threading.Event()
    scripted.on_prepare = lambda: (entered.set(), go.wait(40))  # type: ignore[assignment,func-returns-value]
    for number in range(6):  # more than there are threads
        acted.ask("x", f"r{number}")
    assert entered.wait(40)
    acted.runner.give_back(LEAVING)
    go.set()
    for number in range(6):
        assert isinstance(acted.gateway.wait_end(f"r{number}"), Returned)
    assert scripted.taken == []
    assert acted.report(Ended).is_returned


def test_a_worker_that_cannot_take_a_request_now_gives_it_back(acted: Bench, scripted: ScriptedEngine) -> None:
    scripted.on_prepare = fail_with(OverloadedError("all places are taken"))
    acted.ask("x", "r1")
    acted.gateway.wait_for(Returned)
    scripted.on_prepare = lambda: None
    held(acted, scripted, "r2")
    scripted.says(Failed.of(OverloadedError("the server is full")), request_id="r2")
    acted.gateway.wait_for(Returned, "r2")
    assert returns(acted, "r1") + returns(acted, "r2") == [("busy", "overloaded")] * 2
    assert codes(acted, "r1") + codes(acted, "r2") == []
    wait_until(lambda: acted.runner.totals.returned == 2, "both are counted")
    assert acted.runner.totals.failed == 0


def test_what_was_begun_or_is_the_requests_own_fault_is_not_given_back(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1")
    scripted.says(STARTED)
    scripted.says(Failed.of(OverloadedError("the server is full")))
    assert isinstance(acted.gateway.wait_end("r1"), Failed)
    scripted.on_prepare = fail_with(InvalidRequestError("no such thing"))
    acted.ask("x", "r2")
    assert isinstance(acted.gateway.wait_end("r2"), Failed)
    wait_until(lambda: acted.runner.totals.failed == 2, "both are counted")


def test_a_gateway_that_knows_of_no_returns_hears_an_error_on_which_it_goes_elsewhere(
    acted: Bench, scripted: ScriptedEngine
) -> None:
    acted.ask("x", codes=all_codes_but(Returned))
    wait_until(lambda: scripted.taken == ["r1"], "the engine has it")
    acted.runner.give_back(LEAVING)
    assert isinstance(acted.gateway.wait_for(Failed).error(), WorkerLostError)


def test_the_beginning_tells_the_prompts_digest(acted: Bench, scripted: ScriptedEngine) -> None:
    held(acted, scripted, "r1")
    scripted.says(STARTED)
    assert acted.gateway.wait_for(Started).prompt_digest == "7d"


def test_stopping_ends_with_an_answer_for_everyone(redis_url: str) -> None:
    engine = build_echo()
    with bench_with(redis_url, engine) as bench:
        bench.ask("echo:hang")
        bench.gateway.wait_for(Started)
        bench.runner.end_all(WorkerLostError("the worker is stopping"))
        assert bench.gateway.wait_for(Failed).code == "worker_lost"


def test_sixty_four_requests_at_once_keep_their_streams_apart(bench: Bench) -> None:
    for number in range(64):
        bench.submit(build_request(f"a{number} b{number} c{number}", f"r{number}", sampling=SamplingParams()))
    for number in range(64):
        assert bench.gateway.completion(f"r{number}").parts[0].text == f"a{number} b{number} c{number}"  # type: ignore[union-attr]
        assert bench.gateway.entry_seqs(f"r{number}") == list(range(len(bench.gateway.entry_seqs(f"r{number}"))))


# --- beside the batch -----------------------------------------------------------------------------------------------


class PanicError(BaseException):
    """As PyO3 raises it when a tokenizer's Rust code panics."""


def test_a_count_is_answered_with_one_event_and_recorded(acted: Bench) -> None:
    acted.count("one two three")
    assert acted.gateway.wait_for(Counted, "c1").input_tokens == 7
    assert (acted.gateway.events("c1"), acted.gateway.entry_seqs("c1")) == ([Counted(input_tokens=7)], [0])
    ended = acted.report(Ended)
    assert (ended.ticket.kind, ended.error, ended.usage) == ("count", None, Usage(input_tokens=7))
    wait_until(lambda: not acted.gateway.client.exists(NAMES.body("host", "c1", 1)), "the body is not needed any more")


def test_counts_are_no_requests_of_the_engine(acted: Bench, scripted: ScriptedEngine) -> None:
    acted.count("x")
    acted.report(Ended)
    assert scripted.taken == []
    assert (acted.runner.totals.finished, acted.runner.totals.input_tokens, acted.runner.in_flight) == (0, 0, 0)


def test_counts_are_done_side_by_side(acted: Bench, scripted: ScriptedEngine) -> None:
    together = threading.Barrier(8)
    scripted.on_count = lambda: together.wait(40)  # type: ignore[assignment,return-value]
    for number in range(16):
        acted.count("x", f"c{number}")
    assert [acted.gateway.counted(f"c{number}") for number in range(16)] == [7] * 16


def test_counts_are_answered_while_every_thread_prepares_a_prompt(acted: Bench, scripted: ScriptedEngine) -> None:
    go = threading.Event()
    scripted.on_prepare = lambda: go.wait(40)  # type: ignore[assignment,return-value]
    for number in range(8):
        acted.ask("x", f"r{number}")
    acted.count("x")
    assert acted.gateway.counted("c1") == 7
    go.set()


def test_a_prompt_that_cannot_be_counted_says_why(acted: Bench, scripted: ScriptedEngine) -> None:
    scripted.on_count = fail_with(PromptTooLongError.of(9, 8))
    acted.count("x")
    failed = acted.gateway.wait_for(Failed, "c1")
    assert (failed.code, failed.details) == ("prompt_too_long", {"prompt_tokens": 9, "context_tokens": 8})


@pytest.mark.parametrize("kind", [KeyError, PanicError])
def test_an_unexpected_error_while_counting_is_an_internal_one_without_its_text(
    acted: Bench, scripted: ScriptedEngine, kind: type[BaseException]
) -> None:
    scripted.on_count = fail_with(kind("a secret prompt"))
    acted.count("x")
    failed = acted.gateway.wait_for(Failed, "c1")
    assert failed.code == "internal"
    assert "secret" not in failed.message


def test_a_count_nobody_waits_for_any_more_is_not_done(acted: Bench, scripted: ScriptedEngine) -> None:
    scripted.on_count = fail_with(AssertionError("counted"))
    acted.count("x", deadline_s=time.time() - 1)
    assert acted.gateway.wait_for(Failed, "c1").code == "deadline_exceeded"


def test_a_count_that_is_cancelled_is_told_so_and_nothing_else(acted: Bench, scripted: ScriptedEngine) -> None:
    entered, go = threading.Event(), threading.Event()
    scripted.on_count = lambda: (entered.set(), go.wait(40))  # type: ignore[assignment,func-returns-value]
    acted.count("x")
    assert entered.wait(40)
    assert acted.runner.cancel("c1")
    go.set()
    assert acted.gateway.wait_for(Failed, "c1").code == "cancelled"
    scripted.on_count = lambda: None
    acted.count("y", "c2")
    acted.gateway.counted("c2")
    assert [type(event) for event in acted.gateway.events("c1")] == [Failed]


def test_counts_that_a_stopping_worker_holds_go_back_to_their_gateway(acted: Bench, scripted: ScriptedEngine) -> None:
    entered, go = threading.Event(), threading.Event()
    scripted.on_count = lambda: (entered.set(), go.wait(40))  # type: ignore[assignment,func-returns-value]
    acted.count("x")
    assert entered.wait(40)
    acted.runner.end_all(WorkerLostError("the worker is stopping"))
    returned = acted.gateway.wait_for(Returned, "c1")
    go.set()
    assert (returned.reason, returned.code) == ("leaving", "worker_lost")


@pytest.mark.parametrize(
    ("work", "signed_as"),
    [
        (Count(request=build_request("x")), "generate"),
        (Generate(request=build_request("x")), "count"),
    ],
)
def test_what_was_signed_as_one_kind_of_work_is_never_done_as_another(
    acted: Bench, scripted: ScriptedEngine, work: Work, signed_as: str
) -> None:
    acted.runner.submit(acted.store_work(work, signed_as=signed_as))
    failed = acted.gateway.wait_for(Failed)
    assert (failed.code, "another kind" in failed.message) == ("wire", True)
    assert scripted.taken == []


def test_a_signature_of_one_kind_does_not_hold_for_another_of_the_same_bytes(
    acted: Bench, scripted: ScriptedEngine
) -> None:
    ticket = acted.store_work(Generate(request=build_request("x")))
    body = acted.gateway.client.get(NAMES.body("host", "r1", 1))
    assert isinstance(body, bytes)
    stolen = replace(ticket, signature=sign("r1", 1, body, host="w", kind="count"))
    acted.runner.submit(stolen)
    assert acted.gateway.wait_for(Failed).code == "wire"
    assert scripted.taken == []


def test_work_that_the_engine_does_not_do_is_refused_in_words(redis_url: str, scripted: ScriptedEngine) -> None:
    scripted.kinds = ("count",)
    with bench_with(redis_url, scripted) as bench:
        bench.ask("x")
        returned = bench.gateway.wait_for(Returned)
        assert (returned.reason, returned.code, returned.details["worker"]) == ("unable", "unsupported_work", "w")
        assert "writes no answers" in returned.message
        bench.count("x")
        assert bench.gateway.counted("c1") == 7
