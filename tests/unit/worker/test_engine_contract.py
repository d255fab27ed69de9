"""What every engine of the registry is to the worker, whichever way it computes."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import ModelUnavailableError, PromptTooLongError
from shared.events import Completion, Event, EventOrder, Failed, Finished, Progress, Started, assemble
from shared.messages import Message, TextPart
from shared.registry import ENGINE_NAMES, EngineName, ModelSpec
from shared.request import GenerateRequest, Resume, SamplingParams, ToolDefinition
from tests.models.gguf_checkpoint import build_gguf
from tests.support.gguf_engine import needs_wheel
from tests.support.models import AGENT_FULL
from tests.support.processes import wait_until
from worker.engines.base import Engine, EngineInfo, Output, Prepared
from worker.engines.mlx.engine import MlxEngine
from worker.engines.registry import build_engine
from worker.engines.stepped import SteppedEngine

CAPACITY = 2
TIMEOUT_S = 30.0


class Listener:
    """An outbox that keeps everything, each request's events checked for their order."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, ...]] = []  # the keys of each call
        self.outputs: dict[str, list[Output]] = {}
        self.order: list[str] = []  # the key of each token
        self.signs = 0
        self.error: BaseException | None = None
        self._orders: dict[str, EventOrder] = {}
        self._changed = threading.Condition()

    def emit(self, outputs: Sequence[Output]) -> None:
        with self._changed:
            self.emitted.append(tuple(output.key for output in outputs))
            for output in outputs:
                for event in output.events:
                    self._orders.setdefault(output.key, EventOrder()).feed(event)
                self.outputs.setdefault(output.key, []).append(output)
                self.order += [output.key] * len(output.token_ids)
            self._changed.notify_all()

    def alive(self) -> None:
        self.signs += 1

    def broken(self, error: BaseException) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def expect(self, key: str, past: Sequence[Event]) -> None:
        """What the request's client has already."""
        self.emit([Output(key=key, events=tuple(past))])

    def events(self, key: str) -> list[Event]:
        with self._changed:
            return [event for output in self.outputs.get(key, []) for event in output.events]

    def ids(self, key: str) -> list[int]:
        with self._changed:
            return [token for output in self.outputs.get(key, []) for token in output.token_ids]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.error or condition(), TIMEOUT_S), f"not in time: {what}"
            assert self.error is None, f"the engine broke: {self.error}"

    def wait_words(self, key: str, count: int = 1) -> None:
        """The answer has begun."""
        self.wait(lambda: sum(len(o.token_ids) for o in self.outputs.get(key, [])) >= count, f"{count} words of {key}")

    def wait_end(self, key: str) -> Completion:
        self.wait(lambda: key in self._orders and self._orders[key].ended, f"the end of {key}")
        return assemble(self.events(key))


class Loaded:
    """An engine at work and what it says. Requests are named by their keys, one of each name."""

    def __init__(self, name: EngineName, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.heard = Listener()
        self.seen: list[float] = []
        self.info: EngineInfo = engine.load(self.seen.append)
        engine.start(self.heard)

    def submit(self, text: str, key: str, *, max_tokens: int = 12) -> Prepared:
        prepared = self.engine.prepare(ask(text, key, max_tokens=max_tokens))
        self.engine.submit(prepared)
        return prepared

    def answer(self, text: str, key: str, *, max_tokens: int = 12) -> Completion:
        self.submit(text, key, max_tokens=max_tokens)
        return self.heard.wait_end(key)

    def begin_long(self, key: str, *, max_tokens: int = 400) -> None:
        """An answer of `max_tokens`, under way."""
        self.submit(f"echo:words {max_tokens}", key, max_tokens=max_tokens)
        self.heard.wait_words(key)


def ask(text: str, key: str, *, max_tokens: int = 12) -> GenerateRequest:
    """Greedy, and never over before `max_tokens`."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, logit_bias={2: -1000.0})
    return GenerateRequest(
        id=key, model="m", messages=(Message(role="user", parts=(TextPart(text=text),)),), sampling=sampling
    )


@contextmanager
def loaded(name: EngineName, **options: Any) -> Iterator[Loaded]:
    with tempfile.TemporaryDirectory() as folder:
        spec = ModelSpec(id="m", source=_source(name, Path(folder)), engine=name, options=dict(options))
        engine = build_engine(spec, Settings(state_dir=Path("state"), capacity=CAPACITY, ssd_cache_bytes=-1))
        one = Loaded(name, engine)
        try:
            yield one
        finally:
            assert engine.unload(TIMEOUT_S)
            assert engine.unload(0.0)  # once more changes nothing


def _source(name: EngineName, folder: Path) -> str:
    if name == "gguf":
        return str(build_gguf(AGENT_FULL, folder / "agent.gguf"))
    return str(AGENT_FULL) if name == "mlx" else name


# What another server computes has its own laws: see test_remote.py; and what embeds, hears or speaks writes no
# answers: test_embeddings.py, test_transcription.py, test_speech.py.
GENERATING = [name for name in ENGINE_NAMES if name not in ("remote", "embeddings", "transcription", "speech")]


@pytest.fixture(
    scope="module", params=[pytest.param(each, marks=needs_wheel if each == "gguf" else ()) for each in GENERATING]
)
def one(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    options: dict[str, Any] = {"step_ms": 1.0} if request.param.startswith("echo") else {}
    if request.param == "gguf":
        options = {"default_args": ["-t", "1"]}  # on a busy machine several wait for each other
    with loaded(request.param, **options) as one:
        yield one


def test_loading_ends_at_one_and_says_what_was_loaded(one: Loaded) -> None:
    assert one.seen == sorted(one.seen)
    assert one.seen[-1] == 1.0
    assert one.info.context_tokens > 0
    assert one.info.capacity == CAPACITY
    assert set(one.info.kinds) >= {"generate", "count"}


def test_an_answer_begins_with_started_and_ends_once(one: Loaded) -> None:
    one.answer("one two three", "whole")
    events = [event for event in one.heard.events("whole") if not isinstance(event, Progress)]
    assert isinstance(events[0], Started)
    assert [type(event) for event in events if isinstance(event, Finished | Failed)] == [Finished]


def test_every_generated_token_comes_with_its_id(one: Loaded) -> None:
    assert one.info.gives_token_ids
    completion = one.answer("one two three four", "counted")
    assert len(one.heard.ids("counted")) == completion.usage.output_tokens > 0


def test_counting_agrees_with_preparing_and_with_the_usage(one: Loaded) -> None:
    request = ask("how many tokens are these", "tokens")
    assert one.engine.count(request) == one.engine.prepare(request).prompt_tokens
    assert one.answer("how many tokens are these", "used").usage.input_tokens == one.engine.count(request)


def test_an_answer_ends_at_its_limit(one: Loaded) -> None:
    completion = one.answer("echo:words 40", "limited", max_tokens=7)
    assert (completion.reason, completion.usage.output_tokens) == ("length", 7)


def test_a_prompt_that_is_too_long_is_refused_before_it_is_submitted(one: Loaded) -> None:
    with pytest.raises(PromptTooLongError):
        one.engine.prepare(ask("word " * (one.info.context_tokens + 1), "endless"))


def test_more_requests_than_places_are_kept_apart_and_all_answered(one: Loaded) -> None:
    texts = {f"apart{n}": f"say {n} and nothing else than {n}" for n in range(CAPACITY + 3)}
    for key, text in texts.items():
        one.submit(text, key)
    together = {key: one.heard.wait_end(key).parts for key in texts}
    alone = {key: one.answer(text, f"alone-{key}").parts for key, text in texts.items()}
    assert together == alone


def test_the_same_request_twice_under_keys_of_their_own(one: Loaded) -> None:
    """A later attempt may come while the engine still has the earlier one."""
    request = ask("twice the same", "r")
    for attempt in (1, 2):
        prepared = one.engine.prepare(request)
        one.engine.submit(replace(prepared, key=f"r-{attempt}"))
    first, second = (one.heard.wait_end(f"r-{attempt}") for attempt in (1, 2))
    assert first.parts == second.parts


def test_a_cancelled_request_says_nothing_more_and_leaves_its_place(one: Loaded) -> None:
    for number in range(CAPACITY):
        one.begin_long(f"left{number}", max_tokens=5000)
    for number in range(CAPACITY):
        one.engine.cancel(f"left{number}")
    one.engine.cancel("never seen")
    one.answer("after them", "next")  # obeyed in order, so the cancellations were
    said = [len(one.heard.outputs[f"left{number}"]) for number in range(CAPACITY)]
    one.answer("and another", "next but one")
    assert [len(one.heard.outputs[f"left{number}"]) for number in range(CAPACITY)] == said
    wait_until(lambda: one.engine.stats().running == 0, "nothing runs")


def test_a_request_may_be_cancelled_before_it_begins(one: Loaded) -> None:
    """However early it begins, it could not have ended yet."""
    one.submit("echo:words 5000", "early", max_tokens=5000)
    one.engine.cancel("early")
    one.answer("something else", "late")
    assert not any(isinstance(event, Finished | Failed) for event in one.heard.events("early"))


def test_a_paused_request_waits_for_a_place_and_goes_on_where_it_was(one: Loaded) -> None:
    if not one.info.can_pause:
        one.begin_long("unpaused")
        one.engine.pause("unpaused")
        assert one.heard.wait_end("unpaused").usage.output_tokens == 400
        return
    whole = one.answer("echo:words 400", "undisturbed", max_tokens=400)
    one.begin_long("paused")
    one.begin_long("other", max_tokens=900)
    one.submit("echo:words 60", "visitor", max_tokens=60)  # before the pause: with a place free it would go on at once
    one.engine.pause("paused")
    completion = one.heard.wait_end("paused")
    visit = [at for at, key in enumerate(one.heard.order) if key == "visitor"]
    assert "paused" not in one.heard.order[visit[0] : visit[-1]]
    assert one.heard.order[visit[-1] :].count("paused") > 0
    assert completion.parts == whole.parts
    assert one.heard.ids("paused") == one.heard.ids("undisturbed")
    assert one.heard.wait_end("visitor").usage.output_tokens == 60
    one.engine.cancel("other")


def test_a_paused_request_goes_on_at_once_when_there_is_a_place(one: Loaded) -> None:
    one.begin_long("alone")
    one.engine.pause("alone")
    assert one.heard.wait_end("alone").usage.output_tokens == 400


def test_a_paused_request_can_be_cancelled(one: Loaded) -> None:
    if not one.info.can_pause:
        return
    for key in ("held", "holding"):
        one.begin_long(key, max_tokens=5000)
    one.begin_long("third", max_tokens=5000)
    one.engine.pause("held")
    for key in ("held", "holding", "third"):
        one.engine.cancel(key)
    one.answer("all of them left", "last")
    wait_until(lambda: one.engine.stats().running == one.engine.stats().waiting == 0, "nothing is left")


def test_an_answer_that_was_begun_goes_on_at_any_word(one: Loaded) -> None:
    """Whatever the engine, as long as it gives token ids."""
    request = ask("say this again and again until it is all said", "first", max_tokens=9)
    one.engine.submit(one.engine.prepare(request))
    whole = one.heard.wait_end("first")
    ids = one.heard.ids("first")
    started = next(event for event in one.heard.events("first") if isinstance(event, Started))
    for cut in range(len(ids) + 1):
        prepared = one.engine.prepare(request, Resume(token_ids=tuple(ids[:cut]), usage=started.usage))
        key = f"cut{cut}"
        one.heard.expect(key, prepared.past)
        one.engine.submit(replace(prepared, key=key))
        assert one.heard.wait_end(key) == whole
        assert ids[:cut] + one.heard.ids(key) == ids
        assert not any(isinstance(event, Started | Progress) for event in one.heard.events(key)[len(prepared.past) :])


def test_a_resumed_call_has_the_id_that_it_had() -> None:
    tool = ToolDefinition(name="weather", parameters={"type": "object"})
    for name in ("echo", "echo-streamed"):
        with loaded(name) as one:  # type: ignore[arg-type]
            request = replace(ask('call weather {"city": "Oslo"}', "called"), tools=(tool,))
            one.engine.submit(one.engine.prepare(request))
            whole = one.heard.wait_end("called")
            prepared = one.engine.prepare(request, Resume(token_ids=tuple(one.heard.ids("called")[:1])))
            one.heard.expect("resumed", prepared.past)
            one.engine.submit(replace(prepared, key="resumed"))
            assert one.heard.wait_end("resumed").parts == whole.parts


def test_an_engine_without_work_is_not_stalled(one: Loaded) -> None:
    one.answer("work", "worked")
    wait_until(lambda: not one.engine.stats().stalled_s, "rest")


def test_one_that_works_and_says_nothing_gives_signs_of_life_or_is_stalled() -> None:
    """A batch that hangs is a stall; a stream that is silent is not, as long as its loop turns."""
    with loaded("echo") as one:
        one.submit("echo:hang", "silent")
        wait_until(lambda: (one.engine.stats().stalled_s or 0) > 0.05, "the clock")
        one.engine.cancel("silent")
    with loaded("echo-streamed") as one:
        one.submit("echo:hang", "silent")
        wait_until(lambda: one.heard.signs > 1, "signs of life")
        assert one.engine.stats().stalled_s is None


@pytest.mark.parametrize("name", ["echo", "echo-streamed"])
def test_a_broken_engine_says_so_once(name: EngineName) -> None:
    with loaded(name) as one:
        one.submit("echo:break", "broken")
        wait_until(lambda: one.heard.error is not None, "the engine is broken")
        assert "echo:break" in str(one.heard.error)


def test_what_streams_say_at_one_moment_leaves_together() -> None:
    """One frame for each gateway and turn of the loop, however many streams there are."""
    with loaded("echo-streamed") as one:
        for number in range(CAPACITY):
            one.submit("echo:words 3000", f"s{number}", max_tokens=3000)
        for number in range(CAPACITY):
            one.heard.wait_end(f"s{number}")
        together = [keys for keys in one.heard.emitted if len(keys) == CAPACITY]
        assert len(together) > 1000


def test_a_load_that_fails_raises_where_it_was_asked_for_and_leaves_nothing(tmp_path: Path) -> None:
    engine = SteppedEngine(MlxEngine(ModelSpec(id="m", source=str(tmp_path)), Settings(state_dir=tmp_path)))
    with pytest.raises(ModelUnavailableError):
        engine.load(lambda done: None)
    assert engine.unload(TIMEOUT_S)
